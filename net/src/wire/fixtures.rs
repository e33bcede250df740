//! What this version and earlier ones have sent: it must go on being read. See `net/fixtures/README.md`.

use std::{fmt::Write, fs, path::PathBuf};

use super::*;

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures", &format!("wire-{VERSION}.txt")].iter().collect()
}

fn unhex(text: &str) -> Bytes {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect::<Vec<_>>().into()
}

#[test]
fn fixtures_are_read_as_what_they_were() {
    let mut now = String::new();
    for bytes in crate::fuzzing::messages() {
        bytes.iter().for_each(|byte| write!(now, "{byte:02x}").unwrap());
        writeln!(now, " {}", meaning(&bytes)).unwrap();
    }
    if std::env::var_os("RHIZOMQ_WRITE_FIXTURES").is_some() && !path().exists() {
        fs::create_dir_all(path().parent().unwrap()).unwrap();
        fs::write(path(), &now).unwrap();
    }
    let dir = path().parent().unwrap().to_owned();
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with("wire-")) {
        for line in fs::read_to_string(&file).unwrap().lines() {
            let (hex, expected) = line.split_once(' ').unwrap();
            // Earlier versions are refused by name: `link.rs` lets no node in that speaks them.
            let version = unhex(hex)[0];
            if version != VERSION {
                let refused = decode(unhex(hex)).err();
                assert!(matches!(refused, Some(WireError::Version(of)) if of == version), "{}", file.display());
                continue;
            }
            assert_eq!(meaning(&unhex(hex)), expected, "{}", file.display());
        }
    }
    let text = fs::read_to_string(path()).expect("a fixture of this version: see the README beside it");
    assert!(text == now, "the layout has changed, and its version has not");
}

fn meaning(bytes: &Bytes) -> String {
    match decode(bytes.clone()).unwrap() {
        Wire::App(payload) => format!("App {payload:?}"),
        Wire::Control(message) => format!("Control {message:?}"),
        Wire::Block(bytes) => {
            let block = rhizomq_engine::Block::decode(bytes).unwrap();
            let messages: Vec<_> = (block.first()..=block.last()).map(|slot| block.message(slot)).collect();
            format!("Block {:?} {} {messages:?}", block.segment(), block.first())
        }
    }
}
