//! The admin interface: HTTP with JSON answers, on loopback unless told otherwise.
//!
//! | request | answer |
//! |---|---|
//! | `GET /health` | `{"ok":true}` while the node takes messages, else status 503 |
//! | `GET /status` | the object of `rhizomq status --json` |
//! | `POST /ticket` | `{"ticket":"..."}`, only to a caller on the same machine |
//! | `POST /verify` | the object of `rhizomq verify --json`, once the whole store is read; same machine only |
//! | `POST /forget` with `{"node":"<32 hex digits>"}` | what forgetting it came to; same machine only |
//! | `POST /size` with `{"size":"5"}` | the policy for the number of members: `5`, `negotiate`, `preset 1-3:all, 4+:3`; same machine only |
//! | `GET /subscriptions` | durable subscriptions: `name`, `topics`, `selectors`, `waiting`, `in_flight`, `consumers`, `scheduled` of each |
//! | `POST /unsubscribe` with `{"name":"client/app/orders"}` | deletes a durable subscription, and what waits for it; same machine only |
//! | `POST /drain`, maybe with `{"cancel":true}` | leaves the cluster for good, or takes that back; how far it is; same machine only |
//! | `POST /split` with `{"name":"west","nodes":["ID"],"size":2,"dry_run":true}`, the last two left out or not; or `{"cancel":true}` | parts the cluster into two, or only says what would come of it: who leaves and stays, and what of each backlog; or takes that back; `splitting` in the status tells how it goes; same machine only |
//! | `POST /merge` with `{"ticket":"...","size":"5"}`, the size left out or not | which node of the other cluster is dialled, where, and whether it is known already; `merging` in the status tells how it goes; same machine only |
//! | `GET /users`, `POST /users` | who may log in, see `users.rs`; same machine only |
//! | `GET /policies`, `POST /policies` | what holds for the messages of destinations, see `policies.rs`; changes from the same machine only |
//! | `GET /jobs`, `POST /jobs` | messages that are sent at times of their own, see `jobs.rs`; changes from the same machine only |
//! | `POST /backup` with `{"dir":"/absolute/path"}` | node, number of files and bytes; same machine only |
//!
//! Every refusal is `{"error":"..."}`. The commands `ticket` and `status` are clients of this (see `client.rs`).

use std::{net::SocketAddr, path::PathBuf};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use rhizomq_engine::NodeId;
use rhizomq_net::{Size, SizeError, SplitOrder, Ticket, TicketError};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    door::{self, Caller, Door},
    jobs, policies, users,
};

/// What the admin interface asks of the running node.
pub(crate) trait Source: users::Source + policies::Source + jobs::Source {
    /// The status object, or None once the node is stopping.
    fn status(&self) -> impl Future<Output = Option<Value>> + Send;
    /// A join ticket.
    fn ticket(&self) -> String;
    /// Checks the whole store; the error is for people.
    fn verify(&self) -> impl Future<Output = Result<Value, String>> + Send;
    /// Forgets a node; the error is for people.
    fn forget(&self, node: NodeId) -> impl Future<Output = Result<Value, String>> + Send;
    /// Sets the policy for the number of members; the error is for people.
    fn set_size(&self, size: Size) -> impl Future<Output = Result<Value, String>> + Send;
    /// All durable subscriptions; the error is for people.
    fn subscriptions(&self) -> impl Future<Output = Result<Value, String>> + Send;
    /// Deletes a durable subscription; the error is for people.
    fn remove_subscription(&self, name: String) -> impl Future<Output = Result<Value, String>> + Send;
    /// Leaves the cluster for good, or stays after all; the error is for people.
    fn drain(&self, cancel: bool) -> impl Future<Output = Result<Value, String>> + Send;
    /// Begins to merge with the cluster of a ticket, and sets the size if there is one; the error is for people.
    fn merge(&self, ticket: Ticket, size: Option<Size>) -> impl Future<Output = Result<Value, String>> + Send;
    /// Parts the cluster, or says what would come of it; the error is for people.
    fn split(&self, order: SplitOrder, dry_run: bool) -> impl Future<Output = Result<Value, String>> + Send;
    /// Takes a split back; the error is for people.
    fn cancel_split(&self) -> impl Future<Output = Result<Value, String>> + Send;
    /// Gives up the part of a split cluster that a node is of.
    fn give_up_part_of(&self, node: NodeId) -> impl Future<Output = Result<Value, String>> + Send;
    /// Takes a backup; the error is for people.
    fn backup(&self, dir: PathBuf) -> impl Future<Output = Result<Value, String>> + Send;
}

/// Serves until `stop` resolves; requests under way are answered first.
pub(crate) async fn serve<S: Source>(
    listener: TcpListener,
    source: S,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    serve_through(Door::new(listener, door::PATIENCE), source, stop).await
}

async fn serve_through<S: Source>(
    door: Door,
    source: S,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let app = router(source).into_make_service_with_connect_info::<Caller>();
    axum::serve(door, app).with_graceful_shutdown(stop).await
}

fn router<S: Source>(source: S) -> Router {
    Router::new()
        .route("/health", get(health::<S>))
        .route("/status", get(status::<S>))
        .route("/ticket", post(ticket::<S>))
        .route("/verify", post(verify::<S>))
        .route("/backup", post(backup::<S>))
        .route("/forget", post(forget::<S>))
        .route("/size", post(size::<S>))
        .route("/subscriptions", get(subscriptions::<S>))
        .route("/unsubscribe", post(unsubscribe::<S>))
        .route("/drain", post(drain::<S>))
        .route("/merge", post(merge::<S>))
        .route("/split", post(split::<S>))
        .merge(users::routes())
        .merge(policies::routes())
        .merge(jobs::routes())
        .fallback(|| async {
            refusal(
                StatusCode::NOT_FOUND,
                "there are GET /health, /status, /subscriptions, /users, /policies, /jobs and POST /ticket, /verify, /backup, /forget, /size, /merge, \
                 /split, /drain, /unsubscribe, /users, /policies, /jobs",
            )
        })
        .method_not_allowed_fallback(|| async {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "GET for /health, /status, /subscriptions, /users, /policies and /jobs, POST for /ticket, /verify, /backup, /forget, /size, /merge, \
                 /split, /drain, /unsubscribe, /users, /policies and /jobs",
            )
        })
        .layer(middleware::from_fn(door::take_whole))
        .with_state(source)
}

async fn health<S: Source>(State(source): State<S>) -> Response {
    match source.status().await {
        Some(_) => Json(json!({ "ok": true })).into_response(),
        None => stopping(),
    }
}

async fn status<S: Source>(State(source): State<S>) -> Response {
    source.status().await.map_or_else(stopping, |status| Json(status).into_response())
}

async fn ticket<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = refuse_strangers("a join ticket", caller.address, &headers) {
        return refusal;
    }
    Json(json!({ "ticket": source.ticket() })).into_response()
}

async fn verify<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
) -> Response {
    match refuse_strangers("a check", caller.address, &headers) {
        Some(refusal) => refusal,
        None => answer(source.verify().await),
    }
}

#[derive(Deserialize)]
struct ForgetRequest {
    node: String,
}

#[derive(Deserialize)]
struct BackupRequest {
    dir: PathBuf,
}

async fn backup<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = refuse_strangers("a backup", caller.address, &headers) {
        return refusal;
    }
    match serde_json::from_slice(&body) {
        Ok(BackupRequest { dir }) if dir.is_absolute() => answer(source.backup(dir).await),
        _ => refusal(StatusCode::BAD_REQUEST, "the body must be {\"dir\":\"/absolute/path\"}"),
    }
}

async fn forget<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = refuse_strangers("such a decision", caller.address, &headers) {
        return refusal;
    }
    let node = serde_json::from_slice(&body).ok().and_then(|ForgetRequest { node }| node.parse().ok());
    match node {
        Some(node) => answer(source.forget(node).await),
        None => refusal(StatusCode::BAD_REQUEST, "the body must be {\"node\":\"<32 hex digits>\"}"),
    }
}

#[derive(Deserialize)]
struct SizeRequest {
    size: String,
}

async fn size<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = refuse_strangers("such a decision", caller.address, &headers) {
        return refusal;
    }
    match serde_json::from_slice(&body).map(|SizeRequest { size }| size.parse()) {
        Ok(Ok(size)) => answer(source.set_size(size).await),
        Ok(Err(error)) => refusal(StatusCode::BAD_REQUEST, &SizeError::to_string(&error)),
        Err(_) => refusal(StatusCode::BAD_REQUEST, "the body must be {\"size\":\"5\"}, or another policy in its place"),
    }
}

async fn subscriptions<S: Source>(State(source): State<S>) -> Response {
    answer(source.subscriptions().await)
}

#[derive(Deserialize)]
struct UnsubscribeRequest {
    name: String,
}

async fn unsubscribe<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = refuse_strangers("such a decision", caller.address, &headers) {
        return refusal;
    }
    match serde_json::from_slice(&body) {
        Ok(UnsubscribeRequest { name }) => answer(source.remove_subscription(name).await),
        Err(_) => refusal(StatusCode::BAD_REQUEST, "the body must be {\"name\":\"client/app/orders\"}"),
    }
}

#[derive(Default, Deserialize)]
struct DrainRequest {
    #[serde(default)]
    cancel: bool,
}

async fn drain<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = refuse_strangers("such a decision", caller.address, &headers) {
        return refusal;
    }
    let request = if body.is_empty() { Ok(DrainRequest::default()) } else { serde_json::from_slice(&body) };
    match request {
        Ok(DrainRequest { cancel }) => answer(source.drain(cancel).await),
        Err(_) => refusal(StatusCode::BAD_REQUEST, "the body must be empty or {\"cancel\":true}"),
    }
}

#[derive(Deserialize)]
struct MergeRequest {
    ticket: String,
    size: Option<String>,
}

async fn merge<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = refuse_strangers("such a decision", caller.address, &headers) {
        return refusal;
    }
    let Ok(MergeRequest { ticket, size }) = serde_json::from_slice(&body) else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "the body must be {\"ticket\":\"...\"}, with a \"size\" beside it or not",
        );
    };
    // Both are looked at before anything is done.
    match (ticket.parse(), size.map(|size| size.parse()).transpose()) {
        (Ok(ticket), Ok(size)) => answer(source.merge(ticket, size).await),
        (Err(error), _) => refusal(StatusCode::BAD_REQUEST, &TicketError::to_string(&error)),
        (_, Err(error)) => refusal(StatusCode::BAD_REQUEST, &SizeError::to_string(&error)),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SplitRequest {
    Cancel {
        cancel: bool,
    },
    Lost {
        lost: String,
    },
    Order {
        name: String,
        nodes: Vec<String>,
        size: Option<u32>,
        #[serde(default)]
        dry_run: bool,
    },
}

async fn split<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = refuse_strangers("such a decision", caller.address, &headers) {
        return refusal;
    }
    match serde_json::from_slice(&body) {
        Ok(SplitRequest::Cancel { cancel: true }) => answer(source.cancel_split().await),
        Ok(SplitRequest::Lost { lost }) => match lost.parse() {
            Ok(node) => answer(source.give_up_part_of(node).await),
            Err(_) => refusal(StatusCode::BAD_REQUEST, "a node of the lost part is named by its id, of 32 hex digits"),
        },
        Ok(SplitRequest::Order { name, nodes, size, dry_run }) => {
            match nodes.iter().map(|id| id.parse::<NodeId>()).collect() {
                Ok(leaving) => answer(source.split(SplitOrder { name, leaving, size }, dry_run).await),
                Err(_) => refusal(StatusCode::BAD_REQUEST, "nodes are named by their ids, of 32 hex digits each"),
            }
        }
        _ => refusal(
            StatusCode::BAD_REQUEST,
            "the body must be {\"name\":\"west\",\"nodes\":[\"ID\"]}, with \"size\" and \"dry_run\" or without, or {\"cancel\":true}, or {\"lost\":\"ID\"}",
        ),
    }
}

pub(crate) fn answer(result: Result<Value, String>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(reason) => refusal(StatusCode::CONFLICT, &reason),
    }
}

/// What costs secrets or work is for callers on this machine, and not for web pages that they look at.
pub(crate) fn refuse_strangers(what: &str, caller: SocketAddr, headers: &HeaderMap) -> Option<Response> {
    let reason = if !caller.ip().to_canonical().is_loopback() {
        format!("{what} is only given to a caller on the same machine")
    } else if headers.contains_key(header::ORIGIN) || !names_this_machine(headers) {
        format!("{what} is not given to web pages")
    } else {
        return None;
    };
    tracing::warn!(%caller, "refused: {reason}");
    Some(refusal(StatusCode::FORBIDDEN, &reason))
}

/// A web page can make a browser on this machine ask for it, under a name that the page's owner controls. A request
/// whose `Host` is an address or `localhost` was not made that way.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let bare = host.parse::<SocketAddr>().is_ok() || host.parse::<std::net::IpAddr>().is_ok();
    bare || host == "localhost" || host.starts_with("localhost:")
}

fn stopping() -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping, or reading its store back after a failed write")
}

pub(crate) fn refusal(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        time::Duration,
    };

    use super::*;

    #[derive(Clone)]
    struct Fake {
        up: bool,
        patience: Duration,
    }

    impl users::Source for Fake {
        async fn users(&self) -> Result<Value, String> {
            Ok(json!({ "users": [] }))
        }

        async fn change_user(&self, change: rhizomq_stomp::users::UserChange) -> Result<Value, String> {
            Ok(json!({ "user": change.name() }))
        }
    }

    impl policies::Source for Fake {
        async fn policies(&self) -> Result<Value, String> {
            Ok(json!({ "policies": [] }))
        }

        async fn change_policy(&self, change: rhizomq_stomp::policies::PolicyChange) -> Result<Value, String> {
            Ok(json!({ "pattern": change.pattern() }))
        }
    }

    impl jobs::Source for Fake {
        async fn jobs(&self, question: rhizomq_stomp::JobQuestion) -> Result<Value, String> {
            Ok(json!({ "asked": format!("{question:?}") }))
        }
    }

    impl Source for Fake {
        async fn status(&self) -> Option<Value> {
            self.up.then(|| json!({ "node": "n" }))
        }

        fn ticket(&self) -> String {
            "T".to_owned()
        }

        async fn verify(&self) -> Result<Value, String> {
            // It takes long, if callers are to be quick.
            if self.patience < door::PATIENCE {
                tokio::time::sleep(2 * self.patience).await;
            }
            Ok(json!({ "ok": self.up }))
        }

        async fn forget(&self, node: NodeId) -> Result<Value, String> {
            Ok(json!({ "node": node.to_string() }))
        }

        async fn set_size(&self, size: Size) -> Result<Value, String> {
            Ok(json!({ "policy": size.to_string() }))
        }

        async fn subscriptions(&self) -> Result<Value, String> {
            Ok(json!({ "subscriptions": [] }))
        }

        async fn remove_subscription(&self, name: String) -> Result<Value, String> {
            Ok(json!({ "removed": name }))
        }

        async fn drain(&self, cancel: bool) -> Result<Value, String> {
            Ok(json!({ "cancel": cancel }))
        }

        async fn merge(&self, ticket: Ticket, size: Option<Size>) -> Result<Value, String> {
            Ok(json!({ "node": ticket.node.to_string(), "size": size.map(|size| size.to_string()) }))
        }

        async fn split(&self, order: SplitOrder, dry_run: bool) -> Result<Value, String> {
            Ok(json!({ "name": order.name, "leaving": order.leaving.len(), "size": order.size, "dry_run": dry_run }))
        }

        async fn cancel_split(&self) -> Result<Value, String> {
            Ok(json!({ "splitting": null }))
        }

        async fn give_up_part_of(&self, node: NodeId) -> Result<Value, String> {
            Ok(json!({ "given_up": node.to_string() }))
        }

        async fn backup(&self, dir: PathBuf) -> Result<Value, String> {
            if self.up { Ok(json!({ "dir": dir })) } else { Err("not now".to_owned()) }
        }
    }

    /// A server in a thread of its own.
    struct Server {
        address: SocketAddr,
        stop: Option<tokio::sync::oneshot::Sender<()>>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Server {
        fn start(up: bool, patience: Duration) -> Self {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let thread = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async move {
                    let door = Door::new(TcpListener::from_std(listener).unwrap(), patience);
                    let stop = async { stopped.await.unwrap_or_default() };
                    serve_through(door, Fake { up, patience }, stop).await.unwrap();
                });
            });
            Self { address, stop: Some(stop), thread: Some(thread) }
        }

        /// Whoever waits for ever for an answer fails.
        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream
        }

        /// Sends the raw request; the whole answer.
        fn ask(&self, request: &str) -> String {
            let mut stream = self.connect();
            stream.write_all(request.replace('\n', "\r\n").as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            drop(self.stop.take());
            if let Some(Err(panic)) = self.thread.take().map(std::thread::JoinHandle::join) {
                assert!(std::thread::panicking(), "{panic:?}");
            }
        }
    }

    fn ask(up: bool, request: &str) -> String {
        Server::start(up, door::PATIENCE).ask(request)
    }

    const SHORT: Duration = Duration::from_millis(100);
    const STATUS: &str = "GET /status HTTP/1.1\nHost: localhost\nConnection: close\n\n";

    #[test]
    fn who_asks_nothing_makes_room_for_others() {
        let server = Server::start(true, SHORT);
        let silent: Vec<_> = (0..2 * door::CALLERS).map(|_| server.connect()).collect();
        assert!(server.ask(STATUS).starts_with("HTTP/1.1 200"));
        // Half a head, or half a body, is nothing asked.
        let halves = ["GET /status HT", "POST /backup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"];
        for half in halves {
            let mut slow: Vec<_> = (0..door::CALLERS).map(|_| server.connect()).collect();
            slow.iter_mut().for_each(|stream| _ = stream.write_all(half.as_bytes()));
            assert!(server.ask(STATUS).starts_with("HTTP/1.1 200"), "{half}");
        }
        drop(silent);
    }

    #[test]
    fn bytes_that_trickle_in_are_no_request() {
        let server = Server::start(true, SHORT);
        let mut stream = server.connect();
        stream.set_nonblocking(true).unwrap();
        stream.write_all(b"GET /status HTTP/1.1\r\nx: ").unwrap();
        let is_closed = (0..6_000).any(|_| {
            std::thread::sleep(SHORT / 10);
            let end = stream.read(&mut [0; 64]);
            let would_block = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
            stream.write_all(b"x").is_err() || !end.is_err_and(|error| would_block(&error))
        });
        assert!(is_closed, "it is still there");
    }

    #[test]
    fn an_answer_may_take_longer_than_a_question_and_more_may_be_asked_then() {
        let server = Server::start(true, 10 * SHORT);
        let mut stream = server.connect();
        for _ in 0..2 {
            stream.write_all(b"POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"}") {
                let mut some = [0; 512];
                let len = stream.read(&mut some).unwrap();
                assert!(len > 0, "{}", String::from_utf8_lossy(&answer));
                answer.extend_from_slice(&some[..len]);
            }
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        }
        // And then it ends by itself.
        assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0);
    }

    #[test]
    fn a_body_that_is_too_long_is_refused_in_words() {
        let body = "x".repeat(door::MAX_BODY_BYTES + 1);
        let head = format!("Host: localhost\nContent-Length: {}\nConnection: close\n\n", body.len());
        let answer = ask(true, &format!("POST /backup HTTP/1.1\n{head}{body}"));
        assert!(answer.contains(" 413 ") && answer.contains("{\"error\":"), "{answer}");
    }

    #[test]
    fn status_and_health_follow_the_node() {
        let answer = ask(true, "GET /status HTTP/1.1\nHost: localhost\nConnection: close\n\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"node\":\"n\"}"), "{answer}");
        let answer = ask(false, "GET /health HTTP/1.1\nHost: localhost\nConnection: close\n\n");
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"error\""), "{answer}");
    }

    #[test]
    fn a_backup_needs_an_absolute_path_and_errors_are_told() {
        let with = |up, body: &str| {
            let head = format!("Host: localhost\nContent-Length: {}\nConnection: close\n\n", body.len());
            ask(up, &format!("POST /backup HTTP/1.1\n{head}{body}"))
        };
        assert!(with(true, "{\"dir\":\"/b\"}").ends_with("{\"dir\":\"/b\"}"));
        assert!(with(false, "{\"dir\":\"/b\"}").ends_with("{\"error\":\"not now\"}"));
        for body in ["", "{\"dir\":\"b\"}", "{}"] {
            assert!(with(true, body).contains(" 400 "), "{body}");
        }
    }

    #[test]
    fn a_size_is_read_before_anybody_is_asked_and_a_wrong_one_is_explained() {
        let with = |body: &str| {
            let head = format!("Host: localhost\nContent-Length: {}\nConnection: close\n\n", body.len());
            ask(true, &format!("POST /size HTTP/1.1\n{head}{body}"))
        };
        assert!(with("{\"size\":\"5\"}").ends_with("{\"policy\":\"5\"}"));
        assert!(with("{\"size\":\"preset 1-3:all,4+:3\"}").ends_with("{\"policy\":\"preset 1-3:all, 4+:3\"}"));
        let refused = with("{\"size\":\"0\"}");
        assert!(refused.contains(" 400 ") && refused.contains("write 1 or more"), "{refused}");
        assert!(with("{}").contains(" 400 "));
    }

    #[test]
    fn a_merge_needs_a_whole_ticket_and_a_lawful_size() {
        let with = |body: Value| {
            let body = body.to_string();
            let head = format!("Host: localhost\nContent-Length: {}\nConnection: close\n\n", body.len());
            ask(true, &format!("POST /merge HTTP/1.1\n{head}{body}"))
        };
        let secret = rhizomq_net::rim::NetworkSecret::from_bytes([7; 32]);
        let ticket = Ticket { secret, node: NodeId([1; 16]), addresses: vec!["127.0.0.1:1".parse().unwrap()] };
        let ticket = ticket.to_string();
        assert!(with(json!({ "ticket": ticket })).ends_with("\"size\":null}"));
        assert!(with(json!({ "ticket": ticket, "size": "negotiate" })).ends_with("\"size\":\"negotiate\"}"));
        for (body, reason) in [
            (json!({}), "the body must be"),
            (json!({ "ticket": "hello" }), "print one with `rhizomq ticket`"),
            (json!({ "ticket": &ticket[..ticket.len() - 1] }), "copy it again"),
            (json!({ "ticket": ticket, "size": "0" }), "write 1 or more"),
        ] {
            let refused = with(body);
            assert!(refused.contains(" 400 ") && refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn a_change_of_users_is_read_whole_or_refused_without_repeating_it() {
        let with = |body: &str| {
            let head = format!("Host: localhost\nContent-Length: {}\nConnection: close\n\n", body.len());
            ask(true, &format!("POST /users HTTP/1.1\n{head}{body}"))
        };
        assert!(with("{\"remove\":{\"name\":\"ada\"}}").ends_with("{\"user\":\"ada\"}"));
        for body in [
            "",
            "{\"remove\":{}}",
            "{\"remove\":{\"name\":\"a\",\"hash\":\"h4sh\"}}",
            "{\"passcode\":{\"name\":\"h4sh\"}}",
        ] {
            let refused = with(body);
            assert!(refused.contains(" 400 ") && !refused.contains("h4sh"), "{refused}");
        }
    }

    #[test]
    fn a_ticket_is_for_this_machine_and_for_no_web_page() {
        let with = |headers: &str| ask(true, &format!("POST /ticket HTTP/1.1\n{headers}Connection: close\n\n"));
        assert!(with("Host: 127.0.0.1:61680\n").ends_with("{\"ticket\":\"T\"}"));
        assert!(with("Host: localhost:61680\n").contains(" 200 "));
        for headers in ["Host: evil.example\n", "Host: 127.0.0.1\nOrigin: http://evil.example\n"] {
            let answer = with(headers);
            assert!(answer.contains(" 403 ") && !answer.contains("\"T\""), "{answer}");
        }
        for path in ["/verify", "/backup", "/forget", "/size", "/merge", "/unsubscribe", "/users", "/policies", "/jobs"]
        {
            for headers in ["Host: evil.example\n", "Host: 127.0.0.1\nOrigin: http://evil.example\n"] {
                let request = format!("POST {path} HTTP/1.1\n{headers}Content-Length: 0\nConnection: close\n\n");
                assert!(ask(true, &request).contains(" 403 "), "{path} {headers}");
            }
        }
        assert!(ask(true, "GET /users HTTP/1.1\nHost: evil.example\nConnection: close\n\n").contains(" 403 "));
        assert!(ask(true, "GET /ticket HTTP/1.1\nHost: localhost\nConnection: close\n\n").contains(" 405 "));
    }
}
