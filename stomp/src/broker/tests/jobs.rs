//! What operators ask about jobs, on nodes that have them and on others.

use super::{super::JobQuestion, *};

const DAILY: [(&str, &str); 2] = [("AMQ_SCHEDULED_CRON", "0 5 * * *"), ("priority", "7")];

impl Mesh {
    fn ask_jobs(&mut self, host: usize, question: JobQuestion) -> Result<JobsStatus, JobError> {
        let ask = self.hosts[host].broker.ask_jobs(self.now, question)?;
        self.settle();
        if !self.jobs.contains_key(&(host, ask)) {
            self.pass(3_000);
        }
        self.jobs.remove(&(host, ask)).expect("an answer, whoever is silent")
    }

    fn jobs_at(&mut self, host: usize) -> JobsStatus {
        self.ask_jobs(host, JobQuestion::List).unwrap()
    }

    fn remove_job(&mut self, host: usize, called: &str) -> Result<JobsStatus, JobError> {
        self.ask_jobs(host, JobQuestion::Remove(called.to_owned()))
    }
}

#[test]
fn every_node_lists_what_is_to_come_when_and_how_often() {
    let mut mesh = Mesh::new(5);
    let sender = mesh.connect(1, 0, &[]);
    let started = mesh.now.wall_ms;
    mesh.send_with(sender, "/queue/a", &[("AMQ_SCHEDULED_PERIOD", "60000"), ("AMQ_SCHEDULED_REPEAT", "9")], "a");
    mesh.send_with(sender, "/queue/b", &DAILY, "b");
    mesh.send_with(sender, "/topic/c", &[("x-delay", "900000")], "c");
    mesh.send_with(sender, "/queue/d", &[("x-delay", "900000")], "no job: it waits in its queue");
    let all = mesh.jobs_at(0);
    let [first, later, daily] = &all.jobs[..] else { panic!("{all:?}") };
    assert_eq!((&*first.destination, first.period_ms, first.repeat), ("/queue/a", Some(60_000), Some(9)));
    assert!((started + 60_000..started + 62_000).contains(&first.next_ms), "{first:?}");
    assert_eq!((&*later.destination, later.period_ms, later.repeat), ("/topic/c", None, Some(0)));
    assert_eq!((&*daily.destination, daily.cron.as_deref()), ("/queue/b", Some("0 5 * * *")));
    assert_eq!((daily.priority, daily.repeat, daily.readable), (Some(7), Some(0), true));
    assert!(all.jobs.iter().all(|job| job.holders.len() == 3 && job.id.len() == 16), "{all:?}");
    assert_eq!((all.more, all.unheard.len()), (0, 0));
    for host in 1..5 {
        assert_eq!(mesh.jobs_at(host), all, "h{host}, whether it has them or not");
    }
    // The next one of a chain is the same job, in fewer repetitions.
    let id = first.id.clone();
    for left in [8, 7] {
        mesh.pass(62_000);
        let job = mesh.jobs_at(4).jobs.into_iter().find(|job| job.id == id);
        assert_eq!(job.and_then(|job| job.repeat), Some(left));
    }
}

#[test]
fn a_removed_job_is_gone_at_all_nodes_and_comes_no_more() {
    for passed in [0, 70_000] {
        let mut mesh = Mesh::new(5);
        let sender = mesh.connect(1, 0, &[]);
        mesh.send_with(sender, "/queue/a", &[("AMQ_SCHEDULED_PERIOD", "60000"), ("AMQ_SCHEDULED_REPEAT", "-1")], "a");
        mesh.send_with(sender, "/queue/b", &DAILY, "b");
        mesh.pass(passed);
        let all = mesh.jobs_at(1).jobs;
        let removed = mesh.remove_job(4, &all[0].id[..15].to_uppercase()).unwrap();
        assert_eq!(removed.jobs, all[..1], "it is told which one it was");
        mesh.settle();
        assert_eq!(mesh.jobs_at(2).jobs, all[1..], "the other one stays");
        mesh.pass(300_000);
        let came = mesh.waiting(0).get("/queue/a").copied().unwrap_or_default();
        assert_eq!(came, u64::from(passed > 0), "no more than before");
        let unknown = JobError::Unknown { called: all[0].id.clone(), unheard: Vec::new() };
        assert_eq!(mesh.remove_job(3, &all[0].id), Err(unknown));
    }
}

#[test]
fn a_job_that_is_just_being_carried_out_ends_too() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    let headers = [("x-delay", "1000"), ("AMQ_SCHEDULED_PERIOD", "600000"), ("AMQ_SCHEDULED_REPEAT", "-1")];
    mesh.send_with(sender, "/queue/a", &headers, "a");
    let id = mesh.jobs_at(1).jobs[0].id.clone();
    mesh.slow_disk = Some(0);
    mesh.pass(1_500);
    assert!(mesh.unwritten.is_some(), "what follows is to be written");
    mesh.remove_job(1, &id).unwrap();
    mesh.let_write();
    mesh.pass(1_000);
    assert_eq!(mesh.jobs_at(0).jobs, [], "not first when the next one is due");
    mesh.pass(700_000);
    let left = [("/queue/a".to_owned(), 1)].into();
    assert_eq!((mesh.waiting(0), mesh.waiting(1)), (left, [("/queue/a".to_owned(), 1)].into()));
    assert!(mesh.hosts.iter().all(|host| host.broker.jobs.remembered() == 0));
}

#[test]
fn a_node_that_comes_back_within_a_minute_hears_of_it() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    mesh.send_with(sender, "/queue/a", &[("AMQ_SCHEDULED_PERIOD", "5000"), ("AMQ_SCHEDULED_REPEAT", "-1")], "a");
    let id = mesh.jobs_at(0).jobs[0].id.clone();
    mesh.cut(0, 1);
    mesh.pass(20_000);
    let removed = mesh.remove_job(1, &id).unwrap();
    assert_eq!(removed.unheard, [id_of(0).to_string()], "it goes on there");
    assert_eq!(mesh.jobs_at(0).jobs.len(), 1);
    mesh.link(0, 1);
    mesh.pass(2_000);
    assert_eq!((mesh.jobs_at(0).jobs, mesh.jobs_at(1).jobs), (Vec::new(), Vec::new()));
    let came = mesh.waiting(0)["/queue/a"];
    mesh.pass(60_000);
    assert_eq!(mesh.waiting(0)["/queue/a"], came);
}

#[test]
fn who_is_meant_has_to_be_clear_and_who_is_silent_is_named() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    for called in ["", "x", "0123456789abcdef0", "-1"] {
        assert_eq!(mesh.remove_job(0, called), Err(JobError::NoId(called.to_owned())));
    }
    // With so many two begin alike.
    (0..17).for_each(|_| mesh.send_with(sender, "/queue/a", &DAILY, "a"));
    let ids: Vec<_> = mesh.jobs_at(0).jobs.into_iter().map(|job| job.id).collect();
    let is_double = |digit: &char| ids.iter().filter(|id| id.starts_with(*digit)).count() > 1;
    let digit = "0123456789abcdef".chars().find(is_double).expect("17 of 16 digits");
    let Err(JobError::Several { called, ids: several }) = mesh.remove_job(1, &digit.to_string()) else { panic!() };
    assert!(called == digit.to_string() && several.len() > 1 && several.iter().all(|id| id.starts_with(digit)));
    assert_eq!(mesh.jobs_at(0).jobs.len(), 17, "nothing is removed on a guess");

    mesh.held.insert((1, 0));
    let all = mesh.jobs_at(0);
    assert_eq!((all.jobs.len(), all.unheard), (17, vec![id_of(1).to_string()]));
    assert!(all.jobs.iter().all(|job| job.holders == [id_of(0).to_string()]));
}
