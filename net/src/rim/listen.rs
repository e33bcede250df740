//! Being dialled: a bounded number of handshakes at a time, each with a time limit.

use std::{sync::Arc, time::Instant};

use quinn::Incoming;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    endpoint::Shared,
    handshake::{self, Handshake},
    refusal::{CloseCode, HandshakeError},
};

/// Takes connections until the endpoint is closed.
pub(super) async fn accept(shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(shared.config.max_handshakes.max(1)));
    while let Some(incoming) = shared.endpoint.accept().await {
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            if let Some(suppressed) = shared.quiet.admit(Instant::now()) {
                let remote = incoming.remote_address();
                tracing::warn!(%remote, suppressed, "connection refused: too many are being established");
            }
            incoming.refuse();
            continue;
        };
        // Under load an address has to show that it is no forgery before it takes up a place.
        let crowded = permits.available_permits() < shared.config.max_handshakes / 2;
        if crowded && incoming.may_retry() && !incoming.remote_address_validated() {
            // Only fails when the address was validated already.
            let _ = incoming.retry();
            continue;
        }
        tokio::spawn(establish(Arc::clone(&shared), incoming, permit));
    }
}

async fn establish(shared: Arc<Shared>, incoming: Incoming, _permit: OwnedSemaphorePermit) {
    let remote = incoming.remote_address();
    let Ok(connecting) = incoming.accept() else { return };
    let deadline = tokio::time::Instant::now() + shared.config.handshake_timeout;
    let Ok(Ok(connection)) = tokio::time::timeout_at(deadline, connecting).await else {
        tracing::debug!(%remote, "no TLS handshake");
        return;
    };
    let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
    let greeting = async {
        let peer = handshake::peer_of(&connection, shared.node)?;
        let handshake = Handshake {
            connection: &connection,
            config: &shared.config,
            keyring: &shared.keyring(),
            node: shared.node,
            peer,
        };
        let established = handshake.listen().await?;
        shared.admit(connection.clone(), established)
    };
    let result = timeout(remaining, greeting)
        .await
        .unwrap_or_else(|_| Err(HandshakeError::refuse(CloseCode::TooSlow, "the handshake took too long")));
    if let Err(error) = result {
        if let HandshakeError::Refused(farewell) = &error {
            farewell.close(&connection);
        }
        shared.report(&error, remote);
    }
}
