//! All checks of the crate `iridium-stomp`; see `../README.md`. It speaks STOMP 1.2.

use std::{collections::BTreeSet, fmt::Debug, io::Write, time::Duration};

use futures::StreamExt;
use iridium_stomp::{AckMode, ConnectOptions, Connection, Frame, ReceivedFrame, Subscription};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const PATIENCE: Duration = Duration::from_secs(30);

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("someone listens");
}

fn expect<T: PartialEq + Debug>(what: &str, got: T, wanted: T) -> Outcome {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?} in place of {wanted:?}").into()) }
}

async fn open(host: &str) -> Result<Connection, Box<dyn std::error::Error>> {
    Ok(Connection::connect(host, "", "", Connection::DEFAULT_HEARTBEAT).await?)
}

async fn open_as(host: &str, client: &str) -> Result<Connection, Box<dyn std::error::Error>> {
    let options = ConnectOptions::new().client_id(client);
    Ok(Connection::connect_with_options(host, "", "", Connection::DEFAULT_HEARTBEAT, options).await?)
}

fn message(destination: &str, body: &[u8]) -> Frame {
    Frame::new("SEND").header("destination", destination).set_body(body)
}

async fn send(connection: &Connection, destination: &str, body: &str) -> Outcome {
    Ok(connection.send_frame_confirmed(message(destination, body.as_bytes()), PATIENCE).await?)
}

/// The library asks for no receipt of a SUBSCRIBE; this one comes after the subscription is made.
async fn subscribe(
    connection: &Connection,
    destination: &str,
    ack: AckMode,
    headers: &[(&str, &str)],
) -> Result<Subscription, Box<dyn std::error::Error>> {
    let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let subscription = connection.subscribe_with_headers(destination, ack, headers).await?;
    send(connection, "/topic/after-subscribe", "").await?;
    Ok(subscription)
}

async fn next(subscription: &mut Subscription) -> Result<Frame, Box<dyn std::error::Error>> {
    let frame = tokio::time::timeout(PATIENCE, subscription.next()).await.map_err(|_| "too slow: a MESSAGE")?;
    Ok(frame.ok_or("the subscription has ended")?)
}

async fn take(subscription: &mut Subscription, count: usize) -> Result<Vec<Frame>, Box<dyn std::error::Error>> {
    let mut frames = Vec::new();
    for _ in 0..count {
        frames.push(next(subscription).await?);
    }
    Ok(frames)
}

fn text(frame: &Frame) -> String {
    String::from_utf8_lossy(&frame.body).into_owned()
}

fn bodies(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(text).collect()
}

/// DISCONNECT, and its receipt. A subscription that is dropped before sends UNSUBSCRIBE, which gives back what it holds.
async fn close(connection: Connection, subscription: Subscription) -> Outcome {
    drop(subscription.into_receiver());
    Ok(connection.close().await?)
}

struct Suite {
    hosts: Vec<String>,
    producer: Connection,
}

impl Suite {
    async fn individual(&self) -> Outcome {
        for body in ["1", "2", "3"] {
            send(&self.producer, "/queue/individual", body).await?;
        }
        let consumer = open(&self.hosts[1]).await?;
        let mut inbox = subscribe(&consumer, "/queue/individual", AckMode::ClientIndividual, &[]).await?;
        let got = take(&mut inbox, 3).await?;
        expect("in order", bodies(&got).join(" "), "1 2 3".to_owned())?;
        inbox.ack_frame(&got[1]).await?;
        close(consumer, inbox).await?;
        let consumer = open(&self.hosts[2]).await?;
        let mut inbox = subscribe(&consumer, "/queue/individual", AckMode::ClientIndividual, &[]).await?;
        let got = take(&mut inbox, 2).await?;
        let mut left = bodies(&got);
        left.sort();
        expect("what was not acknowledged", left.join(" "), "1 3".to_owned())?;
        for frame in &got {
            inbox.ack_frame(frame).await?;
        }
        close(consumer, inbox).await
    }

    async fn cumulative(&self) -> Outcome {
        for body in ["1", "2", "3"] {
            send(&self.producer, "/queue/cumulative", body).await?;
        }
        let consumer = open(&self.hosts[1]).await?;
        let mut inbox = subscribe(&consumer, "/queue/cumulative", AckMode::Client, &[]).await?;
        let got = take(&mut inbox, 3).await?;
        inbox.ack_frame(&got[1]).await?;
        close(consumer, inbox).await?;
        let consumer = open(&self.hosts[2]).await?;
        let mut inbox = subscribe(&consumer, "/queue/cumulative", AckMode::Client, &[]).await?;
        let last = next(&mut inbox).await?;
        expect("what was not acknowledged", text(&last), "3".to_owned())?;
        inbox.ack_frame(&last).await?;
        close(consumer, inbox).await
    }

    async fn nack(&self) -> Outcome {
        send(&self.producer, "/queue/nack", "again").await?;
        let consumer = open(&self.hosts[1]).await?;
        let mut inbox = subscribe(&consumer, "/queue/nack", AckMode::ClientIndividual, &[]).await?;
        let before = next(&mut inbox).await?;
        inbox.nack_frame(&before).await?;
        let after = next(&mut inbox).await?;
        expect("the same", after.get_header("message-id"), before.get_header("message-id"))?;
        expect("marked", after.get_header("redelivered"), Some("true"))?;
        inbox.ack_frame(&after).await?;
        close(consumer, inbox).await
    }

    async fn wildcard(&self) -> Outcome {
        let consumer = open(&self.hosts[1]).await?;
        let mut inbox = subscribe(&consumer, "/topic/wild.*.eur", AckMode::Auto, &[]).await?;
        for name in ["a.eur", "a.usd", "b.eur"] {
            send(&self.producer, &format!("/topic/wild.{name}"), name).await?;
        }
        let mut got = bodies(&take(&mut inbox, 2).await?);
        got.sort();
        expect("what matches", got.join(" "), "a.eur b.eur".to_owned())?;
        close(consumer, inbox).await
    }

    /// As users of Artemis have it. Its UNSUBSCRIBE takes no headers, so that the durable one is deleted with a frame of ours.
    async fn durable(&self) -> Outcome {
        let durable = [("durable-subscription-name", "durable")];
        let consumer = open_as(&self.hosts[1], "rust").await?;
        let inbox = subscribe(&consumer, "/topic/durable", AckMode::ClientIndividual, &durable).await?;
        close(consumer, inbox).await?;
        send(&self.producer, "/topic/durable", "meanwhile").await?;
        let consumer = open_as(&self.hosts[2], "rust").await?;
        let mut inbox = subscribe(&consumer, "/topic/durable", AckMode::ClientIndividual, &durable).await?;
        let got = next(&mut inbox).await?;
        expect("what came meanwhile", text(&got), "meanwhile".to_owned())?;
        inbox.ack_frame(&got).await?;
        let delete = Frame::new("UNSUBSCRIBE").header("id", inbox.id()).header(durable[0].0, durable[0].1);
        consumer.send_frame_confirmed(delete, PATIENCE).await?;
        close(consumer, inbox).await
    }

    async fn transaction(&self) -> Outcome {
        for (body, commit) in [("dropped", false), ("kept", true)] {
            self.producer.begin(body).await?;
            for half in ["1", "2"] {
                let frame = message("/queue/transaction", format!("{body} {half}").as_bytes());
                self.producer.send_frame_confirmed(frame.header("transaction", body), PATIENCE).await?;
            }
            if commit { self.producer.commit(body).await? } else { self.producer.abort(body).await? }
        }
        send(&self.producer, "/queue/transaction", "last").await?;
        let consumer = open(&self.hosts[1]).await?;
        let mut inbox = subscribe(&consumer, "/queue/transaction", AckMode::Client, &[]).await?;
        let got = take(&mut inbox, 3).await?;
        expect("only what was committed", bodies(&got).join(", "), "kept 1, kept 2, last".to_owned())?;
        inbox.ack_frame(&got[2]).await?;
        close(consumer, inbox).await
    }

    /// As users of RabbitMQ have it: the answers of a subscription that nobody made come with all other frames.
    async fn reply(&self) -> Outcome {
        let server = open(&self.hosts[1]).await?;
        let mut requests = subscribe(&server, "/queue/requests", AckMode::Auto, &[]).await?;
        let question = message("/queue/requests", b"question").header("reply-to", "/temp-queue/answers");
        self.producer.send_frame_confirmed(question, PATIENCE).await?;
        let request = next(&mut requests).await?;
        let to = request.get_header("reply-to").ok_or("no reply-to")?;
        send(&server, to, &format!("answer to {}", text(&request))).await?;
        loop {
            match tokio::time::timeout(PATIENCE, self.producer.next_frame())
                .await
                .map_err(|_| "too slow: the answer")?
            {
                Some(ReceivedFrame::Frame(frame)) if frame.command == "MESSAGE" => {
                    expect("the answer", text(&frame), "answer to question".to_owned())?;
                    expect("its subscription", frame.get_header("subscription"), Some("/temp-queue/answers"))?;
                    return close(server, requests).await;
                }
                Some(ReceivedFrame::Frame(_)) => {}
                other => return Err(format!("{other:?} in place of the answer").into()),
            }
        }
    }

    async fn escaping(&self) -> Outcome {
        let value = "colon: backslash\\ line\nreturn\r snowman \u{2603} \\n";
        let consumer = open(&self.hosts[1]).await?;
        let mut inbox = subscribe(&consumer, "/queue/escaping", AckMode::Auto, &[]).await?;
        let frame = message("/queue/escaping", b"body").header("na:me", value);
        self.producer.send_frame_confirmed(frame, PATIENCE).await?;
        expect("header", next(&mut inbox).await?.get_header("na:me"), Some(value))?;
        close(consumer, inbox).await
    }

    async fn bytes(&self, destination: &str, sent: Vec<u8>) -> Outcome {
        let consumer = open(&self.hosts[1]).await?;
        let mut inbox = subscribe(&consumer, destination, AckMode::ClientIndividual, &[]).await?;
        self.producer.send_frame_confirmed(message(destination, &sent), PATIENCE).await?;
        let got = next(&mut inbox).await?;
        expect("length", got.body.len(), sent.len())?;
        expect("first difference", got.body.iter().zip(&sent).position(|(a, b)| a != b), None)?;
        inbox.ack_frame(&got).await?;
        close(consumer, inbox).await
    }

    /// For its user to do: it connects again to the one address that it knows.
    async fn failover(&mut self) -> Outcome {
        for n in 0..100 {
            let body = format!("m-{n}");
            if n == 50 {
                say(&format!("kill {}", self.hosts[0]));
                std::io::stdin().read_line(&mut String::new())?;
            }
            let frame = message("/queue/failover", body.as_bytes());
            if self.producer.send_frame_confirmed(frame, Duration::from_secs(2)).await.is_err() {
                self.producer = open(&self.hosts[1]).await?;
                send(&self.producer, "/queue/failover", &body).await?;
            }
            say(&format!("confirmed {body}"));
        }
        let consumer = open(&self.hosts[2]).await?;
        let mut inbox = subscribe(&consumer, "/queue/failover", AckMode::ClientIndividual, &[]).await?;
        let mut different = BTreeSet::new();
        while different.len() < 100 {
            let got = next(&mut inbox).await?;
            say(&format!("got {}", text(&got)));
            different.insert(text(&got));
            inbox.ack_frame(&got).await?;
        }
        close(consumer, inbox).await
    }

    async fn disconnect(&self) -> Outcome {
        let leaving = open(&self.hosts[1]).await?;
        for n in 0..20 {
            leaving.send("/queue/disconnect", n.to_string()).await?;
        }
        leaving.close().await?;
        let consumer = open(&self.hosts[2]).await?;
        let mut inbox = subscribe(&consumer, "/queue/disconnect", AckMode::Client, &[]).await?;
        let got = take(&mut inbox, 20).await?;
        inbox.ack_frame(&got[19]).await?;
        close(consumer, inbox).await
    }
}

async fn idle(host: &str) -> Outcome {
    let (beats, mut came) = tokio::sync::mpsc::channel(64);
    let options = ConnectOptions::new().heartbeat_notify(beats);
    let connection = Connection::connect_with_options(host, "", "", "1000,1000", options).await?;
    let wait = std::env::var("RHIZOMQ_TEST_IDLE_MS")?.parse()?;
    tokio::time::sleep(Duration::from_millis(wait)).await;
    came.try_recv().map_err(|_| "no heart-beats came")?;
    send(&connection, "/topic/idle", "still here").await?;
    connection.close().await?;
    say("ok heart-beats");
    Ok(())
}

async fn suite(hosts: Vec<String>) -> Outcome {
    let producer = open(&hosts[0]).await?;
    say("ok connect");
    let mut suite = Suite { hosts, producer };
    let names =
        "individual cumulative nack wildcard durable transaction reply escaping binary large failover disconnect";
    for name in names.split(' ') {
        let outcome = match name {
            "individual" => suite.individual().await,
            "cumulative" => suite.cumulative().await,
            "nack" => suite.nack().await,
            "wildcard" => suite.wildcard().await,
            "durable" => suite.durable().await,
            "transaction" => suite.transaction().await,
            "reply" => suite.reply().await,
            "escaping" => suite.escaping().await,
            "binary" => suite.bytes("/queue/binary", (0..=255).chain(0..=255).collect()).await,
            "large" => suite.bytes("/queue/large", (0..1u64 << 20).map(|n| (n * n + (n >> 8)) as u8).collect()).await,
            "failover" => suite.failover().await,
            _ => suite.disconnect().await,
        };
        outcome.map_err(|error| format!("{name}: {error}"))?;
        say(&format!("ok {name}"));
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let mode = args.next();
    let hosts: Vec<String> = args.collect();
    let outcome = if mode.as_deref() == Some("idle") { idle(&hosts[0]).await } else { suite(hosts).await };
    if let Err(error) = outcome {
        eprintln!("iridium-stomp: {error}");
        std::process::exit(1);
    }
}
