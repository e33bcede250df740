//! Where a passcode is read from: the terminal, without showing it; standard input; or a file. Never from the command line,
//! which others on the machine can see.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use clap::Args;
use rand::TryRng;
use rhizomq_stomp::users::{Cost, HashError, MAX_PASSCODE_LEN, Passcode, PasscodeError, Verifier};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Where it comes from; by default it is asked for, twice.
#[derive(Debug, Args)]
pub(crate) struct PasscodeArgs {
    /// Read the passcode from standard input, up to the end of the first line
    #[arg(long)]
    pub(crate) passcode_stdin: bool,
    /// Read the passcode from a file, up to the end of its first line
    #[arg(long, value_name = "FILE", conflicts_with = "passcode_stdin")]
    pub(crate) passcode_file: Option<PathBuf>,
}

/// There is no passcode.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("standard input: {0}")]
    Stdin(io::Error),
    #[error("there is no terminal to ask for the passcode ({0}); use --passcode-stdin or --passcode-file FILE")]
    NoTerminal(io::Error),
    #[error("the passcodes differ; nothing was changed")]
    Differ,
    #[error(transparent)]
    Passcode(#[from] PasscodeError),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error("the system gives no random bytes: {0}")]
    NoRandomness(rand::rngs::SysError),
}

impl PasscodeArgs {
    /// Reads the passcode and makes of it what the node gets: it leaves this process only hashed.
    pub(crate) fn verifier(&self) -> Result<Verifier, ReadError> {
        let passcode = Passcode::new(self.read()?)?;
        let mut salt = [0; 16];
        rand::rngs::SysRng.try_fill_bytes(&mut salt).map_err(ReadError::NoRandomness)?;
        Ok(Verifier::new(&passcode, salt, Cost::default())?)
    }

    /// Reads a passcode that somebody else has set: a terminal is asked once.
    pub(crate) fn known(&self) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        match self.given()? {
            Some(passcode) => Ok(passcode),
            None => Terminal::open().and_then(|mut terminal| terminal.ask("Passcode: ")).map_err(ReadError::NoTerminal),
        }
    }

    fn read(&self) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        if let Some(passcode) = self.given()? {
            return Ok(passcode);
        }
        let mut terminal = Terminal::open().map_err(ReadError::NoTerminal)?;
        let passcode = terminal.ask("Passcode: ").map_err(ReadError::NoTerminal)?;
        let again = terminal.ask("The same again: ").map_err(ReadError::NoTerminal)?;
        if passcode == again { Ok(passcode) } else { Err(ReadError::Differ) }
    }

    /// What the options name; `None`: the terminal is to be asked.
    fn given(&self) -> Result<Option<Zeroizing<Vec<u8>>>, ReadError> {
        if let Some(path) = &self.passcode_file {
            let error = |source| ReadError::File { path: path.clone(), source };
            return first_line(File::open(path).map_err(error)?).map_err(error).map(Some);
        }
        if self.passcode_stdin {
            // The standard library would keep what it has read in a buffer of its own.
            let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(ReadError::Stdin)?;
            return first_line(File::from(stdin)).map_err(ReadError::Stdin).map(Some);
        }
        Ok(None)
    }
}

/// Reads up to the end of a line, or of what there is; one byte at a time, so that nothing is taken of what follows.
fn first_line(mut from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    // With room for all that is taken: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSCODE_LEN + 2));
    let mut byte = [0];
    while line.len() < MAX_PASSCODE_LEN + 2 {
        match from.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == [b'\n'] => break,
            Ok(_) => line.extend_from_slice(&byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

/// The terminal of this process, which does not show what is typed; it does so again when this is dropped.
struct Terminal {
    file: File,
    former: Termios,
}

impl Terminal {
    fn open() -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(Path::new("/dev/tty"))?;
        let former = tcgetattr(&file)?;
        let mut silent = former.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&file, OptionalActions::Flush, &silent)?;
        Ok(Self { file, former })
    }

    fn ask(&mut self, prompt: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        self.file.write_all(prompt.as_bytes())?;
        first_line(&self.file)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.file, OptionalActions::Flush, &self.former);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_taken_and_nothing_of_the_next() {
        let mut from: &[u8] = b"a b\r\nnext\n";
        assert_eq!(*first_line(&mut from).unwrap(), b"a b");
        assert_eq!(from, b"next\n");
        assert_eq!(*first_line(&b"no end"[..]).unwrap(), b"no end");
        let long = vec![b'x'; 2 * MAX_PASSCODE_LEN];
        let line = first_line(&long[..]).unwrap();
        assert_eq!(line.capacity(), MAX_PASSCODE_LEN + 2);
        assert_eq!(Passcode::new(line), Err(PasscodeError::TooLong), "it is not cut to size");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let args = PasscodeArgs { passcode_stdin: false, passcode_file: Some("/no/such/file".into()) };
        let error = args.verifier().unwrap_err().to_string();
        assert!(error.starts_with("/no/such/file: "), "{error}");
    }
}
