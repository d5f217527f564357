//! `--initial-cluster`: read at each start, but held against this member's own name and URLs only when a new member is made, since etcd
//! ignores it once there is data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::ToSocketAddrs as _;

use super::Config;
use super::url::Url;
use super::value::quote;
use crate::error::Fault;

/// Reads `n1=url,n1=url,n2=url`: members in name order, each with its URLs sorted.
pub fn members(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        members.entry(name).or_default().push(url);
    }
    let urls = |urls: Vec<&str>| Url::list(&urls.join(",")).map(|urls| urls.into_iter().map(|url| url.text).collect());
    members.into_iter().map(|(name, given)| Ok((name.to_owned(), urls(given)?))).collect()
}

/// The addresses of a `host:port`, sorted, from the system's resolver; the error is for people.
pub fn resolve(host: &str) -> Result<Vec<String>, String> {
    let resolved = host.to_socket_addrs().map_err(|e| format!("failed to resolve {host}: {e}"))?;
    Ok(resolved.map(|addr| addr.to_string()).collect::<BTreeSet<_>>().into_iter().collect())
}

impl Config {
    /// To be asked before a data directory is made: does `--initial-cluster` know this member, under the URLs it advertises? Host names
    /// are resolved with `resolve` if the texts differ, `localhost` and 127.0.0.1 being the same.
    pub fn verify_bootstrap(&self, resolve: impl Fn(&str) -> Result<Vec<String>, String>) -> Result<(), Fault> {
        let local = self.initial_cluster.iter().find(|(name, _)| *name == self.name).map(|(_, urls)| urls);
        let Some(local) = local else {
            let name = quote(&self.name);
            return Err(Fault::new(format!("couldn't find local name {name} in the initial cluster configuration")));
        };
        if !self.join_existing {
            self.verify_advertised(local, resolve)?;
        }
        let mut seen = BTreeSet::new();
        if !self.initial_cluster.iter().flat_map(|(_, urls)| urls).all(|url| seen.insert(url)) {
            return Err(Fault::new(format!("initial cluster {} has duplicate url", self.initial_cluster_text())));
        }
        Ok(())
    }

    fn verify_advertised(&self, local: &[String], resolve: impl Fn(&str) -> Result<Vec<String>, String>) -> Result<(), Fault> {
        let mut advertised = self.initial_advertise_peer_urls.clone();
        advertised.sort();
        let Err(why) = same_urls(&advertised, local, resolve) else {
            return Ok(());
        };
        let (advertised_text, name) = (advertised.join(","), &self.name);
        let missing: Vec<String> =
            local.iter().filter(|url| !advertised.contains(url)).map(|url| format!("{name}={url}")).collect();
        if !missing.is_empty() {
            let missing = missing.join(",");
            let text = "but missing from --initial-advertise-peer-urls";
            return Err(Fault::new(format!("--initial-cluster has {missing} {text}={advertised_text} ({why})")));
        }
        let own: Vec<String> = advertised.iter().map(|url| format!("{name}={url}")).collect();
        let missing: Vec<&str> = advertised.iter().filter(|url| !local.contains(url)).map(String::as_str).collect();
        let (missing, own) = (missing.join(","), own.join(","));
        Err(Fault::new(format!("--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={own}")))
    }

    fn initial_cluster_text(&self) -> String {
        let pairs = self.initial_cluster.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
        let mut pairs: Vec<String> = pairs.collect();
        pairs.sort();
        pairs.join(",")
    }
}

/// Whether two sorted lists of URLs lead to the same places.
fn same_urls(ours: &[String], theirs: &[String], resolve: impl Fn(&str) -> Result<Vec<String>, String>) -> Result<(), String> {
    let list = |urls: &[String]| format!("[{}]", urls.iter().map(|url| quote(url)).collect::<Vec<_>>().join(" "));
    if ours.len() != theirs.len() {
        return Err(format!("len({}) != len({})", list(ours), list(theirs)));
    }
    if ours.iter().zip(theirs).all(|(a, b)| local(a) == local(b)) {
        return Ok(());
    }
    let resolved = |urls: &[String]| {
        let mut resolved = Vec::new();
        for text in urls {
            let url = Url::parse(&local(text))?;
            let host = match url.scheme.unix() || url.hostname().parse::<std::net::IpAddr>().is_ok() {
                true => url.host.clone(),
                false => {
                    resolve(&url.host)?.into_iter().next().ok_or_else(|| format!("failed to resolve {}: no address", url.host))?
                }
            };
            resolved.push((url.scheme, host, url.path, text.clone()));
        }
        resolved.sort();
        Ok::<_, String>(resolved)
    };
    let (ours, theirs) = (resolved(ours)?, resolved(theirs)?);
    match ours.iter().zip(&theirs).find(|(a, b)| (a.0, &a.1, &a.2) != (b.0, &b.1, &b.2)) {
        None => Ok(()),
        Some((a, b)) => Err(format!("resolved urls: {} != {}", quote(&a.3), quote(&b.3))),
    }
}

fn local(url: &str) -> String {
    url.replacen("://localhost:", "://127.0.0.1:", 1)
}
