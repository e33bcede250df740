//! Nodes in network namespaces of their own, joined by a router whose ways can be cut: real links, real silence.
//!
//! Each node has a namespace with one cable to the router (a namespace, too); so has the test, which is a client only. A
//! cut drops what two nodes send each other in the router, and neither hears of it. Needs root and `ip` of iproute2.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use super::node::Setup;

/// A router and the namespaces around it; they go when this does.
pub struct Hub {
    /// In front of all names: two tests at a time are two routers.
    prefix: String,
    /// The second number of all addresses.
    net: u8,
    nodes: usize,
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    let error = || format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(error()) }
}

fn inside(namespace: &str, words: &str) -> Result<(), String> {
    ip(&format!("netns exec {namespace} {words}"))
}

impl Hub {
    /// A router with so many namespaces; the reason, if this can't be had here. `number` tells tests of one program apart.
    pub fn new(number: u8, nodes: usize) -> Result<Self, String> {
        let prefix = format!("rz{}{number}", std::process::id() % 100_000);
        let hub = Self { prefix, net: 64 + number, nodes };
        // What is there by now goes with `hub`, should the rest not work.
        let router = hub.router();
        ip(&format!("netns add {router}"))?;
        inside(&router, "sysctl -qw net.ipv4.ip_forward=1")?;
        inside(&router, "ip link set lo up")?;
        for node in 0..nodes {
            let name = hub.namespace(node);
            ip(&format!("netns add {name}"))?;
            hub.plug(node as u8, Some(&name))?;
            inside(&name, "ip link set lo up")?;
            inside(&name, &format!("ip route add default via {}", hub.gateway(node as u8)))?;
        }
        hub.plug(250, None)?;
        ip(&format!("route add 10.{}.0.0/16 via {}", hub.net, hub.gateway(250)))?;
        Ok(hub)
    }

    fn router(&self) -> String {
        format!("{}hub", self.prefix)
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: usize) -> String {
        format!("{}n{node}", self.prefix)
    }

    fn gateway(&self, place: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.net, place, 1)
    }

    fn address(&self, place: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.net, place, 2)
    }

    /// A cable from the router to a namespace, or to where the test is.
    fn plug(&self, place: u8, namespace: Option<&str>) -> Result<(), String> {
        let (near, far) = (format!("{}h{place}", self.prefix), format!("{}c{place}", self.prefix));
        ip(&format!("link add {near} type veth peer name {far}"))?;
        ip(&format!("link set {near} netns {}", self.router()))?;
        inside(&self.router(), &format!("ip addr add {}/30 dev {near}", self.gateway(place)))?;
        inside(&self.router(), &format!("ip link set {near} up"))?;
        let there = |words: String| match namespace {
            Some(name) => inside(name, &format!("ip {words}")),
            None => ip(&words),
        };
        if let Some(name) = namespace {
            ip(&format!("link set {far} netns {name}"))?;
        }
        there(format!("addr add {}/30 dev {far}", self.address(place)))?;
        there(format!("link set {far} up"))
    }

    /// How a node of that place is started.
    pub fn setup(&self, dir: &Path, name: &str, node: usize) -> Setup {
        let any = SocketAddr::from((self.address(node as u8), 0));
        let mut setup = Setup::new(dir, name);
        (setup.stomp, setup.peer) = (any, any);
        setup.namespace = Some(self.namespace(node));
        setup
    }

    /// Bytes that went over a node's cable so far, both ways, headers included.
    pub fn bytes(&self, node: usize) -> u64 {
        let count = |way: &str| {
            let file = format!("/sys/class/net/{}c{node}/statistics/{way}_bytes", self.prefix);
            let output = Command::new("ip").args(["netns", "exec", &self.namespace(node), "cat", &file]).output();
            let text = String::from_utf8(output.expect("ip runs").stdout).expect("a number");
            text.trim().parse::<u64>().unwrap_or_else(|_| panic!("{file} holds `{text}`"))
        };
        count("rx") + count("tx")
    }

    /// Nothing gets from one side to the other any more.
    pub fn cut(&self, left: &[usize], right: &[usize]) {
        self.each_way(left, right, "add");
    }

    /// Undoes [`Hub::cut`].
    pub fn heal(&self, left: &[usize], right: &[usize]) {
        self.each_way(left, right, "del");
    }

    fn each_way(&self, left: &[usize], right: &[usize], what: &str) {
        for (&a, &b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
            for (from, to) in [(a, b), (b, a)] {
                let (from, to) = (self.address(from as u8), self.address(to as u8));
                inside(&self.router(), &format!("ip rule {what} from {from} to {to} blackhole"))
                    .expect("the router does as it is told");
            }
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Cables go with the namespaces they end in, and the way to them with its cable.
        for node in 0..self.nodes {
            let _ = ip(&format!("netns del {}", self.namespace(node)));
        }
        let _ = ip(&format!("netns del {}", self.router()));
        let _ = ip(&format!("link del {}c250", self.prefix));
    }
}
