//! A set on two replicas that change it while they can't see each other: `cargo run -p rhizomq-engine --example set`

use rhizomq_engine::{Local, LocalError, NodeId, Store};

/// What the set holds, as text.
fn list<S: Store>(replica: &mut Local<S>) -> String {
    let members = replica.set("shopping").members();
    members.iter().map(|member| String::from_utf8_lossy(member)).collect::<Vec<_>>().join(", ")
}

/// Two people, one shopping list.
pub fn main() -> Result<(), LocalError> {
    let mut ada = Local::in_memory(NodeId::from_name("ada's telephone"))?;
    let mut bo = Local::in_memory(NodeId::from_name("bo's telephone"))?;
    let mut tablet = Local::in_memory(NodeId::from_name("a tablet, mostly in a drawer"))?;

    for item in ["bread", "milk", "soap"] {
        ada.set("shopping").add(item)?;
    }
    ada.commit()?;
    bo.pull_from(&ada)?;
    tablet.pull_from(&ada)?;
    println!("All have:               {}", list(&mut bo));

    // No network. Ada has bought milk and soap; Bo is in the bath, where the soap is nearly gone.
    ada.set("shopping").remove("milk")?;
    ada.set("shopping").remove("soap")?;
    ada.commit()?;
    bo.set("shopping").add("soap")?;
    bo.set("shopping").add("tea")?;
    bo.commit()?;
    println!("Apart, Ada has:         {}", list(&mut ada));
    println!("Apart, Bo has:          {}", list(&mut bo));

    // Ada's removal saw the old entry for soap, not Bo's new one: that stays. Nobody has to decide, and nobody asks.
    ada.pull_from(&bo)?;
    bo.pull_from(&ada)?;
    println!("Together again:         {}", list(&mut ada));
    assert_eq!(list(&mut ada), "bread, soap, tea");
    assert_eq!(list(&mut ada), list(&mut bo));

    // The tablet still has milk on its list. That does not bring it back, however often it comes; what is new does come.
    tablet.set("shopping").add("cake")?;
    tablet.commit()?;
    bo.pull_from(&tablet)?;
    bo.pull_from(&tablet)?;
    println!("The tablet had:         {}", list(&mut tablet));
    println!("With the tablet's:      {}", list(&mut bo));
    assert!(bo.set("shopping").contains("cake") && !bo.set("shopping").contains("milk"));

    Ok(())
}
