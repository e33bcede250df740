//! The `rhizomq` program.
fn main() -> anyhow::Result<()> {
    Ok(())
}
