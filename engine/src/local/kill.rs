//! SIGKILL at random moments of a child that drives a whole engine: what it confirmed is there, all of each commit or
//! nothing, and what was consumed does not come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::*;

const CHILD: &str = "RHIZOMQ_KILL_ENGINE";
/// Commits after which most messages of a commit are consumed, and after which the rest is.
const SOON: u32 = 20;
const LATE: u32 = 150;

fn open(path: &Path) -> Local<DiskStore> {
    let options = DiskOptions { roll_at: 32 << 10, checkpoint_bytes: 32 << 10, reserve: 0, ..DiskOptions::default() };
    let (local, found) = Local::open_dir_with(path, NodeId::from_name("killed"), options).expect("opens");
    assert!(found.damages.is_empty(), "{found:?}");
    let lost = local.found();
    assert!(lost.losses.is_empty() && lost.damaged_rows.is_empty() && lost.unaccounted.is_none(), "{lost:?}");
    local
}

/// What commit number `step` does: a function of nothing else, so that parent and child agree.
struct Step {
    publishes: Vec<Vec<u8>>,
    /// Messages are known by what they begin with.
    consumes: Vec<String>,
    adds: String,
    removes: String,
}

fn name(step: u32, part: u32) -> String {
    format!("{step}/{part};")
}

fn step(step: u32) -> Step {
    let body =
        |part: u32| [name(step, part).as_bytes(), &vec![b'x'; (step * 37 + part * 501) as usize % 3_000]].concat();
    let parts = |step: u32, late: bool| (0..1 + step % 3).filter(move |part| (part + step).is_multiple_of(4) == late);
    let old = |age: u32, late: bool| {
        let step = step.checked_sub(age).filter(|step| *step > 0);
        step.into_iter().flat_map(move |step| parts(step, late).map(move |part| name(step, part)))
    };
    Step {
        publishes: (0..1 + step % 3).map(body).collect(),
        consumes: old(SOON, false).chain(old(LATE, true)).collect(),
        adds: format!("member {}", step % 50),
        removes: format!("member {}", (step + 25) % 50),
    }
}

/// What must be there after so many steps.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    last: u32,
    members: BTreeSet<String>,
    waiting: BTreeMap<String, Vec<u8>>,
}

impl Shown {
    fn go_to(&mut self, last: u32) {
        for number in self.last + 1..=last {
            let Step { publishes, consumes, adds, removes } = step(number);
            self.waiting.extend(publishes.into_iter().map(|body| (name_of(&body), body)));
            consumes.iter().for_each(|name| assert!(self.waiting.remove(name).is_some()));
            self.members.insert(adds);
            self.members.remove(&removes);
        }
        self.last = last;
    }

    fn of(local: &mut Local<DiskStore>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let waiting: Vec<_> = local.waiting("q").map(|waits| waits.expect("reads").1.body.to_vec()).collect();
        let count = waiting.len();
        let waiting: BTreeMap<_, _> = waiting.into_iter().map(|body| (name_of(&body), body)).collect();
        assert_eq!(waiting.len(), count, "each once");
        Self {
            last: local.register("last").get().map_or(0, |last| text(last).parse().expect("a number")),
            members: local.set("members").members().iter().map(|member| text(member)).collect(),
            waiting,
        }
    }
}

fn name_of(body: &[u8]) -> String {
    let end = body.iter().position(|byte| *byte == b';').expect("it has one");
    String::from_utf8(body[..=end].to_vec()).expect("text")
}

/// Not a test by itself: the process that gets killed. It confirms to standard error.
#[test]
fn child() {
    let Some(dir) = env::var_os(CHILD) else { return };
    let mut local = open(Path::new(&dir));
    let mut dots: BTreeMap<String, Dot> = local
        .waiting("q")
        .map(|waits| waits.expect("reads"))
        .map(|(dot, message)| (name_of(&message.body), dot))
        .collect();
    let mut last = Shown::of(&mut local).last;
    loop {
        last += 1;
        let Step { publishes, consumes, adds, removes } = step(last);
        publishes.into_iter().for_each(|body| _ = local.publish("q", body).expect("lawful"));
        consumes.iter().for_each(|name| local.consume(dots.remove(name).expect("it waits")));
        local.set("members").add(adds).expect("lawful");
        local.set("members").remove(removes).expect("lawful");
        local.register("last").set(last.to_string()).expect("lawful");
        let done = local.commit().expect("writes");
        std::io::stderr().write_all(format!("confirmed {last}\n").as_bytes()).expect("the parent reads");
        for (&segment, slots) in &done.arrived {
            for slot in slots.iter() {
                let dot = Dot { segment, slot };
                let message = local.engine().message(dot).expect("reads").expect("waits");
                dots.insert(name_of(&message.body), dot);
            }
        }
    }
}

#[test]
fn nothing_confirmed_is_lost_to_sigkill_and_nothing_consumed_comes_back() {
    let kills: u32 = env::var("RHIZOMQ_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("store");
    let mut model = Shown::default();
    for kill in 0..kills {
        let random = RandomState::new().hash_one(kill);
        let mut child = Command::new(env::current_exe().expect("it runs"));
        child.args(["--exact", "local::kill::child", "--nocapture", "--test-threads=1"]);
        let child = child.env(CHILD, &path).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let mut confirmed = model.last;
        let mut note = |line: String| match line.strip_prefix("confirmed ") {
            Some(number) => confirmed = number.parse().expect("a number"),
            None => panic!("the child says: {line}"),
        };
        // At once, or after some hundred commits, and then some instructions later.
        lines.by_ref().take((random % 200) as usize).for_each(&mut note);
        (0..random >> 40 & 0xf_ffff).for_each(|spin| _ = std::hint::black_box(spin));
        child.kill().expect("it lives");
        lines.for_each(note);
        child.wait().expect("it ended");

        let mut local = open(&path);
        let found = Shown::of(&mut local);
        assert!(found.last >= confirmed, "kill {kill}: {confirmed} was confirmed, {} is there", found.last);
        model.go_to(found.last);
        assert_eq!(found, model, "kill {kill}");
    }
    assert!(model.last > LATE, "too few commits to see much: {}", model.last);
}
