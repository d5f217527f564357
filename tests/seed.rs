//! The seed story: the store of a small Kubernetes cluster, seen through etcdctl over mutual TLS.

mod registry;

use std::collections::BTreeMap;

use bramble::pb::etcdserverpb::compare::{CompareResult, TargetUnion};

use crate::support::requests::{IntoOp, cmp, grant, put_leased, txn};
use crate::support::{Client, Etcdctl, Security, Server, Version};
use registry::Entry;

/// As kube-apiserver creates: only if it is not there.
fn create(client: &Client, entry: &Entry) {
    let absent = cmp(&entry.key, CompareResult::Equal, TargetUnion::ModRevision(0));
    let reply = client.call(&txn(vec![absent], vec![put_leased(&entry.key, &entry.value, entry.lease).op()], vec![]));
    assert!(reply.succeeded, "{} is there already", entry.key);
}

/// `etcdctl get "" --prefix -w json`: keys and values.
fn listed(etcdctl: &Etcdctl) -> BTreeMap<String, Vec<u8>> {
    let json: serde_json::Value = serde_json::from_str(&etcdctl.stdout(&["get", "", "--prefix", "-w", "json"])).unwrap();
    let rows = json["kvs"].as_array().expect("rows");
    assert_eq!(json["count"].as_u64(), Some(rows.len() as u64));
    let row = |row: &serde_json::Value| {
        let key = String::from_utf8(base64(row["key"].as_str().unwrap())).unwrap();
        (key, base64(row["value"].as_str().unwrap_or_default()))
    };
    rows.iter().map(row).collect()
}

fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("not base64: {text}"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

#[test]
fn a_new_pod_is_exactly_the_difference_in_the_store() {
    let mut server = Server::builder().security(Security::Mutual).start();
    let client = server.client();
    for lease in registry::LEASES {
        client.call(&grant(3_600, lease));
    }
    let cluster = registry::small_cluster();
    assert!((180..260).contains(&cluster.len()), "{} keys", cluster.len());
    for entry in &cluster {
        create(&client, entry);
    }
    let expected: BTreeMap<String, Vec<u8>> = cluster.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
    for version in [Version::V34, Version::V37] {
        assert_eq!(listed(&Etcdctl::new(version, &server)), expected, "with etcdctl {version:?}");
    }

    let before = listed(&Etcdctl::new(Version::V37, &server));
    let pod = registry::pod("default", "web-6d4b75cb6d-x2x7k");
    for entry in &pod {
        create(&client, entry);
    }
    server.kill();
    server.restart();
    let after = listed(&Etcdctl::new(Version::V37, &server));
    let new: Vec<&String> = after.keys().filter(|key| !before.contains_key(*key)).collect();
    let mut keys: Vec<&String> = pod.iter().map(|entry| &entry.key).collect();
    keys.sort();
    assert_eq!(new, keys);
    assert!(before.iter().all(|(key, value)| after.get(key) == Some(value)), "nothing else has changed");
}
