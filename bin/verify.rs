//! `rhizomq verify`: checks a stopped node's directory, its keys included, without changing it, or asks a running node to check itself.

use std::{path::Path, process::ExitCode};

use rhizomq_engine::{
    StoreError,
    store::{VerifyError, verify_closed},
};
use rhizomq_net::rim::check_keys;
use serde_json::Value;

use crate::{
    cli::VerifyArgs,
    client::{self, ClientError},
    findings,
    output::{complain, is_unread, say},
};

/// Findings that are told one by one; the others are counted.
const MAX_TOLD: usize = 10_000;

/// The check could not be made.
#[derive(Debug, thiserror::Error)]
enum Unchecked {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the node of {data} is running; let it check itself: rhizomq verify --admin ADDR:PORT")]
    Running { data: String },
    #[error(transparent)]
    Store(#[from] VerifyError),
    #[error("no place for a copy of the index (the directory for temporary files; TMPDIR sets it): {0}")]
    Scratch(std::io::Error),
}

/// Exit codes: 0 all is well, 1 something is broken, 2 it could not be checked.
pub(crate) fn run(args: &VerifyArgs) -> ExitCode {
    let report = match args.admin {
        Some(admin) => client::verify(admin).map_err(Unchecked::from),
        None => closed(&args.data),
    };
    match report {
        Ok(report) => {
            let text = if args.json { report.to_string() } else { findings::render(&report) };
            match say(text.trim_end()) {
                Err(error) if !is_unread(&error) => {
                    complain(ClientError::Output(error));
                    ExitCode::from(2)
                }
                _ if report["ok"] == true => ExitCode::SUCCESS,
                _ => ExitCode::from(1),
            }
        }
        Err(error) => {
            complain(error);
            ExitCode::from(2)
        }
    }
}

fn closed(data: &Path) -> Result<Value, Unchecked> {
    let scratch = tempfile::tempdir().map_err(Unchecked::Scratch)?;
    let (mut broken, mut more) = (Vec::new(), 0);
    let checked = verify_closed(&data.join("store"), scratch.path(), &mut |finding| {
        if broken.len() < MAX_TOLD { broken.push(finding) } else { more += 1 }
    });
    match checked {
        Ok((checked, notes)) => {
            let mut report = findings::report(&checked, &broken, more, &notes);
            findings::add_keys(&mut report, &check_keys(data));
            Ok(report)
        }
        Err(VerifyError::Store(StoreError::Locked { .. })) => {
            Err(Unchecked::Running { data: data.display().to_string() })
        }
        Err(error) => Err(error.into()),
    }
}
