//! Looking at the secret files of a data directory without changing anything there.

use std::{fs, path::Path};

use super::{identity, keyfile::is_open_to_others, secret};
use crate::rim::{Identity, NetworkSecret};

/// What is wrong with a secret file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyProblem {
    /// The file, from the data directory on.
    pub file: &'static str,
    /// What is wrong, and what to do.
    pub what: String,
}

/// Checks that a node's key and its network's secret are there, whole, and for nobody else to read. Nothing is created.
pub fn check_keys(data: &Path) -> Vec<KeyProblem> {
    let identity = Identity::load(data).map(|found| found.is_some()).map_err(|error| error.to_string());
    let secret = NetworkSecret::load(data).map(|found| found.is_some()).map_err(|error| error.to_string());
    let files = [
        (identity::FILE, identity, "a node does not start without it on a store that another start has used"),
        (secret::FILE, secret, "the next start makes a new network, unless it is given a ticket"),
    ];
    let mut problems = Vec::new();
    for (file, found, instead) in files {
        match found {
            Ok(true) => {}
            Ok(false) => {
                let what = format!("missing; restore it from a backup: {instead}");
                problems.push(KeyProblem { file, what });
            }
            Err(what) => problems.push(KeyProblem { file, what }),
        }
        if fs::metadata(data.join(file)).is_ok_and(|metadata| is_open_to_others(&metadata)) {
            problems.push(KeyProblem { file, what: "other users can read or write it: `chmod 600` it".to_owned() });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_damaged_and_open_files_are_named_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let problems = || check_keys(data).into_iter().map(|problem| (problem.file, problem.what)).collect::<Vec<_>>();
        let found = problems();
        assert!(found.len() == 2 && found.iter().all(|(_, what)| what.starts_with("missing")), "{found:?}");
        assert_eq!(fs::read_dir(data).unwrap().count(), 0);

        Identity::load_or_create(data).unwrap();
        NetworkSecret::load_or_create(data).unwrap();
        assert_eq!(problems(), []);

        for file in ["identity.key", "network.secret"] {
            let path = data.join(file);
            let good = fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[40] ^= 1;
            fs::write(&path, &bad).unwrap();
            let found = problems();
            assert!(found.len() == 1 && found[0].0 == file && found[0].1.contains("is damaged"), "{found:?}");
            assert_eq!(fs::read(&path).unwrap(), bad);
            fs::write(&path, &good).unwrap();
            #[cfg(unix)]
            for mode in [0o640, 0o602] {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                let found = problems();
                assert!(found.len() == 1 && found[0].0 == file && found[0].1.contains("chmod 600"), "{found:?}");
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
        assert_eq!(problems(), []);
    }
}
