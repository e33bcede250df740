//! Whether a row points to the value of a record of its own key: what lies right before the value in the log says it.

use std::io;

use super::{
    file::{io_error, is_unreadable},
    frame::{Kind, RECORD_HEADER, records},
    log::FileTable,
    row::Row,
};
use crate::StoreError;

/// Whether the log has the value of a row in a put of this very key. `true` also when that can't be told: the value is not in
/// the log alone, or the file is gone or does not give its bytes.
pub(super) fn is_of_key(table: &FileTable, key: &[u8], row: &Row) -> Result<bool, StoreError> {
    let (Row::Pointer { file, offset, len, .. } | Row::Sealed { file, offset, len, .. }) = row else {
        return Ok(true);
    };
    let before = RECORD_HEADER + key.len();
    let Some(at) = offset.checked_sub(before as u64) else { return Ok(false) };
    let mut bytes = vec![0; before];
    match table.get(*file).and_then(|file| file.read_at(&mut bytes, at)) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
            return Ok(true);
        }
        Err(error) if is_unreadable(&error) => return Ok(true),
        Err(error) => return Err(io_error("checking", &table.path(*file), error)),
    }
    // The value has been read and compared with its checksum: here its length is enough.
    bytes.resize(before + *len as usize, 0);
    let record = records(&bytes).next().and_then(Result::ok);
    Ok(record.is_some_and(|(record, value_at)| {
        !matches!(record.kind, Kind::Delete | Kind::Lost)
            && record.key == key
            && value_at == before
            && record.value.len() == *len as usize
    }))
}
