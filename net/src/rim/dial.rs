//! Dialling: for every target one task that never gives up, whatever anyone holds dead.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::Connection;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rhizomq_engine::NodeId;
use tokio::time::{sleep, timeout};

use super::{
    endpoint::Shared,
    handshake::{self, Handshake},
    refusal::{CloseCode, HandshakeError},
    tls,
};

/// The pause when only people can do something about it: a refusal, or another node at the address.
const HOPELESS_BACKOFF: Duration = Duration::from_secs(5);

/// Whom to keep trying: a node, when its name is known, at any of some addresses.
pub(super) type Target = (Option<NodeId>, Vec<SocketAddr>);

/// Dials the target whenever there is no link to it, for ever.
pub(super) async fn keep_dialling(shared: Arc<Shared>, target: Target, seed: u64) {
    let (wanted, addresses) = target;
    // Who lives at an address without a name is known after the first success, and may change.
    let mut node = wanted;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut spread = |pause: Duration| pause.mul_f64(rng.random_range(0.5..1.0));
    let mut backoff = shared.config.min_backoff;
    let mut trusted = shared.trusted.subscribe();
    loop {
        if let Some(node) = node.filter(|node| shared.table.is_linked(*node)) {
            shared.table.unlinked(node).await;
            // Both ends have lost the link in the same instant; let one of them be first.
            sleep(spread(shared.config.min_backoff)).await;
        }
        let mut pause = backoff;
        backoff = (backoff * 2).min(shared.config.max_backoff);
        for address in &addresses {
            match dial(&shared, *address).await {
                Ok(found) if wanted.is_some_and(|wanted| wanted != found) => {
                    tracing::debug!(%address, %found, "another node lives at this address now");
                    pause = pause.max(HOPELESS_BACKOFF);
                }
                Ok(found) => {
                    node = Some(found);
                    backoff = shared.config.min_backoff;
                    pause = Duration::ZERO;
                    break;
                }
                Err(error) => {
                    tracing::debug!(%address, %error, "dialling failed");
                    shared.report(&error, *address);
                    if error.needs_people() {
                        pause = pause.max(HOPELESS_BACKOFF);
                    }
                }
            }
        }
        tokio::select! {
            () = sleep(spread(pause)) => {}
            // Who was refused may be let in now.
            () = shared.keyring_changes(&mut trusted) => backoff = shared.config.min_backoff,
        }
    }
}

/// One attempt at one address. Gives the node that lives there and is linked now.
async fn dial(shared: &Arc<Shared>, address: SocketAddr) -> Result<NodeId, HandshakeError> {
    let connecting =
        shared.endpoint.connect(address, tls::SERVER_NAME).map_err(|error| HandshakeError::Lost(error.to_string()))?;
    match timeout(shared.config.handshake_timeout, establish(shared, connecting)).await {
        Ok(result) => result,
        Err(_) => Err(HandshakeError::Lost("the handshake took too long".into())),
    }
}

async fn establish(shared: &Arc<Shared>, connecting: quinn::Connecting) -> Result<NodeId, HandshakeError> {
    let connection = connecting.await?;
    let result = greet(shared, &connection).await;
    if let Err(HandshakeError::Refused(farewell)) = &result {
        farewell.close(&connection);
    }
    match result {
        // There is a link, which is all we wanted. The peer's name is proven, its membership by the other link.
        Err(HandshakeError::Refused(farewell)) if farewell.code == CloseCode::Duplicate => {
            handshake::peer_of(&connection, shared.node)
        }
        other => other,
    }
}

async fn greet(shared: &Arc<Shared>, connection: &Connection) -> Result<NodeId, HandshakeError> {
    let peer = handshake::peer_of(connection, shared.node)?;
    let Some(_dialling) = shared.table.dialling(peer) else {
        return Err(HandshakeError::refuse(CloseCode::Duplicate, "there is a link between the two nodes already"));
    };
    let keyring = shared.keyring();
    let handshake = Handshake { connection, config: &shared.config, keyring: &keyring, node: shared.node, peer };
    let established = handshake.dial().await?;
    shared.admit(connection.clone(), established)?;
    Ok(peer)
}
