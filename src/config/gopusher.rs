//! gopusher's config.ini, which some who come from it give to `--config`: answered with its keys in oxipush's words.
//!
//! docs/migrate.md has the same table, and a test holds the two together.

use std::{collections::BTreeMap, fmt::Write};

use super::source::RawValues;

/// One key of gopusher's config.ini.
pub(super) struct GopusherKey {
    pub(super) section: &'static str,
    pub(super) key: &'static str,
    /// What its program takes where the value is empty.
    default: &'static str,
    /// Section and key here; `None`: there is none.
    pub(super) ours: Option<(&'static str, &'static str)>,
    /// The value here; `None`: it is none that gopusher could use.
    translate: fn(&str) -> Option<String>,
    /// What is different, or why there is no such key.
    pub(super) note: &'static str,
}

/// Every key, in the order of its file.
pub(super) const KEYS: [GopusherKey; 13] = [
    GopusherKey {
        section: "log",
        key: "level",
        default: "5",
        ours: Some(("log", "level")),
        translate: level,
        note: "logrus counts 2 error, 3 warn, 4 info, 5 debug, 6 trace; info is enough here",
    },
    GopusherKey {
        section: "log",
        key: "reportCaller",
        default: "false",
        ours: None,
        translate: as_it_is,
        note: "none: each line names its module, and [log] format = json has it as a field",
    },
    GopusherKey {
        section: "queue",
        key: "topic",
        default: "gopusher",
        ours: Some(("queue", "topic")),
        translate: as_it_is,
        note: "the same topic takes the same messages; the gateways' own records are on <topic>.live",
    },
    GopusherKey {
        section: "queue",
        key: "channel",
        default: "one",
        ours: Some(("queue", "channel")),
        translate: as_it_is,
        note: "all nodes share it, and every node reaches its clients all the same: no channel for each node is needed",
    },
    GopusherKey {
        section: "queue",
        key: "producerAddr",
        default: "127.0.0.1:4152",
        ours: Some(("queue", "nsqd")),
        translate: nsqd,
        note: "with backend = nsq; without an nsqd leave both out: the embedded queue needs none",
    },
    GopusherKey {
        section: "queue",
        key: "consumerAddr",
        default: "127.0.0.1:4152",
        ours: Some(("queue", "nsqd")),
        translate: nsqd,
        note: "one list of nsqds, which are published to and consumed from",
    },
    GopusherKey {
        section: "queue",
        key: "consumerHandlerNum",
        default: "1",
        ours: Some(("queue", "processors")),
        translate: processors,
        note: "one card's pushes keep their order, however many there are",
    },
    GopusherKey {
        section: "gin",
        key: "serverAddr",
        default: "127.0.0.1:18080",
        ours: Some(("socket", "listen")),
        translate: listener,
        note: "clients, at /ws; beyond loopback [socket] anonymous, [token] or [verify] says who may join",
    },
    GopusherKey {
        section: "grpc",
        key: "serverAddr",
        default: "127.0.0.1:18081",
        ours: Some(("grpc", "listen")),
        translate: listener,
        note: "gRPC, proto.Rpc as it is; beyond loopback it needs [auth] keys",
    },
    GopusherKey {
        section: "grpc",
        key: "gatewayAddr",
        default: "127.0.0.1:18082",
        ours: Some(("http", "listen")),
        translate: listener,
        note: "HTTP: /push, /system, /isOnline, /group; beyond loopback it needs [auth] keys",
    },
    GopusherKey {
        section: "etcd",
        key: "enable",
        default: "false",
        ours: None,
        translate: as_it_is,
        note: "none: [cluster] etcd registers the node, and empty does not",
    },
    GopusherKey {
        section: "etcd",
        key: "registeredAddr",
        default: "127.0.0.1:2379",
        ours: Some(("cluster", "etcd")),
        translate: etcd,
        note: "only where enable is true; nodes are under [cluster] prefix, each with all its addresses",
    },
    GopusherKey {
        section: "etcd",
        key: "listenKey",
        default: "/gopuser",
        ours: Some(("cluster", "gopusher_key")),
        translate: as_it_is,
        note: "for confd templates of gopusher: the node is under /gopusher/<key>/<address>, too",
    },
];

/// Keys that oxipush has, too, and means alike: they alone do not make a file gopusher's.
const SHARED: [(&str, &str); 2] = [("queue", "topic"), ("queue", "channel")];

fn of(section: &str, key: &str) -> Option<&'static GopusherKey> {
    KEYS.iter().find(|known| known.section == section && known.key == key)
}

/// Whether a file is gopusher's: it has a key, or a section, that only gopusher has, or its number for a level.
fn is_gopushers(file: &RawValues) -> bool {
    let only_its = |section: &str, key: &str, value: &str| {
        let is_level = (section, key) == ("log", "level");
        of(section, key).is_some() && !SHARED.contains(&(section, key)) && (!is_level || value.parse::<u8>().is_ok())
    };
    file.iter().any(|(section, keys)| {
        ["gin", "etcd"].contains(&section.as_str()) || keys.iter().any(|(key, value)| only_its(section, key, value))
    })
}

/// Takes gopusher's keys out of a file that is gopusher's, and says what they are here.
pub(super) fn take(file: &mut RawValues) -> Option<String> {
    if !is_gopushers(file) {
        return None;
    }
    let mut found = Vec::new();
    for known in &KEYS {
        let value = file.get_mut(known.section).and_then(|keys| keys.remove(known.key));
        found.extend(value.map(|value| (known, value)));
    }
    file.retain(|section, keys| !(["gin", "etcd"].contains(&section.as_str()) && keys.is_empty()));
    Some(answer(&found))
}

/// Each key with what it is here, then all of it as a file.
fn answer(found: &[(&GopusherKey, String)]) -> String {
    let mut text = String::from(
        "this is a config.ini of gopusher. Its keys are these here (docs/migrate.md has what else is different):",
    );
    let with_etcd = found.iter().any(|(known, value)| {
        (known.section, known.key) == ("etcd", "enable")
            && ["true", "1", "t", "yes", "y", "on"].contains(&&*value.to_lowercase())
    });
    let mut file = TranslatedFile::default();
    for (known, value) in found {
        let GopusherKey { section, key, default, ours, translate, note } = known;
        let used = if value.is_empty() { default } else { value.as_str() };
        let (here, note) = match (ours, translate(used)) {
            (Some((here, name)), Some(value)) => {
                let unused = *here == "cluster" && !with_etcd;
                if !unused {
                    file.set(here, name, &value);
                }
                (format!("[{here}] {name} = {value}"), *note)
            }
            (Some((here, name)), None) => (format!("[{here}] {name}"), "its value is none that can be taken over"),
            (None, _) => ("nothing".to_owned(), *note),
        };
        // writing to a String cannot fail
        let _ = write!(text, "\n    [{section}] {key} = {value}\n        → {here}   ({note})");
    }
    text.push_str("\n  As a file of oxipush:\n");
    file.write(&mut text);
    text
}

/// The values in oxipush's words.
#[derive(Default)]
struct TranslatedFile(BTreeMap<&'static str, BTreeMap<&'static str, Vec<String>>>);

impl TranslatedFile {
    /// Of one key that is given twice both are kept: as a list.
    fn set(&mut self, section: &'static str, key: &'static str, value: &str) {
        let values = self.0.entry(section).or_default().entry(key).or_default();
        if !values.iter().any(|known| known == value) {
            values.push(value.to_owned());
        }
    }

    fn write(mut self, text: &mut String) {
        let nsqds = self.0.get("queue").and_then(|keys| keys.get("nsqd")).cloned().unwrap_or_default();
        for nsqd in &nsqds {
            self.set("queue", "backend", "nsq");
            if let Some(http) = http_of(nsqd) {
                self.set("queue", "nsqd_http", &http);
            }
        }
        if self.0.contains_key("cluster") {
            self.set("socket", "anonymous", "true");
        }
        for (section, keys) in &self.0 {
            let _ = write!(text, "\n    [{section}]");
            for (key, values) in keys {
                match (*section, *key) {
                    ("queue", "nsqd_http") => {
                        text.push_str("\n    ; nsqd's --http-address, which gopusher did not ask for")
                    }
                    ("socket", "anonymous") => {
                        text.push_str(
                            "\n    ; as with gopusher anyone may join as any card; [token] or [verify] ends that",
                        );
                    }
                    _ => {}
                }
                let _ = write!(text, "\n    {key} = {}", values.join(", "));
            }
        }
    }
}

fn as_it_is(value: &str) -> Option<String> {
    Some(value.to_owned())
}

/// logrus's number as a word.
fn level(value: &str) -> Option<String> {
    let word = match value.parse::<u8>() {
        Ok(0..=2) => "error",
        Ok(3) => "warn",
        Ok(4) => "info",
        Ok(5) => "debug",
        Ok(6) => "trace",
        Ok(_) => return None,
        // gopusher reads what is no number as 0, and takes 5 then
        Err(_) => "debug",
    };
    Some(word.to_owned())
}

/// What gopusher gives to Go's `net.Listen`, where no host means all addresses.
fn listener(value: &str) -> Option<String> {
    let (host, port) = value.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let host = match host {
        "" | "*" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        host => host,
    };
    Some(format!("{host}:{port}"))
}

/// What gopusher dials.
fn nsqd(value: &str) -> Option<String> {
    let (host, port) = value.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    Some(format!("{host}:{port}"))
}

/// Where an nsqd's HTTP usually is: one above its TCP.
fn http_of(nsqd: &str) -> Option<String> {
    let (host, port) = nsqd.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?.checked_add(1)?;
    Some(format!("{host}:{port}"))
}

/// What gopusher reads as no number, or 0, is 1.
fn processors(value: &str) -> Option<String> {
    let number = value.parse::<i64>().unwrap_or(1);
    Some(number.clamp(1, 1024).to_string())
}

fn etcd(value: &str) -> Option<String> {
    match value.split_once("://") {
        Some(_) => as_it_is(value),
        None => nsqd(value).map(|address| format!("http://{address}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::Path};

    use super::super::load;
    use super::*;

    /// gopusher's own file, at fc03fd4.
    const ITS_FILE: &str = "[log]\nlevel = 5\nreportCaller = false\n\n[queue]\ntopic = \"gopusher\"\nchannel = \"one\"\n\
        producerAddr = \"127.0.0.1:4152\"\nconsumerAddr = \"127.0.0.1:4152\"\nconsumerHandlerNum = 10\n\n[gin]\n\
        serverAddr = \"127.0.0.1:10080\"\n\n[grpc]\nserverAddr = \"127.0.0.1:10081\"\ngatewayAddr = \"127.0.0.1:10082\"\n\n\
        [etcd]\nenable = true\nregisteredAddr = \"127.0.0.1:2379\"\nlistenKey = \"socketserver\"";

    fn told(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.ini");
        fs::write(&path, text).unwrap();
        load(Some(&path), []).map(|_| ()).unwrap_err().0
    }

    #[test]
    fn its_own_file_is_answered_key_by_key_and_not_with_guesses() {
        let told = told(ITS_FILE);
        assert_eq!(told.len(), 1, "{told:#?}");
        for line in [
            "[log] level = 5\n        → [log] level = debug",
            "[log] reportCaller = false\n        → nothing   (none: each line names its module",
            "[queue] topic = gopusher\n        → [queue] topic = gopusher",
            "[queue] channel = one\n        → [queue] channel = one",
            "[queue] producerAddr = 127.0.0.1:4152\n        → [queue] nsqd = 127.0.0.1:4152",
            "[queue] consumerAddr = 127.0.0.1:4152\n        → [queue] nsqd = 127.0.0.1:4152",
            "[queue] consumerHandlerNum = 10\n        → [queue] processors = 10",
            "[gin] serverAddr = 127.0.0.1:10080\n        → [socket] listen = 127.0.0.1:10080",
            "[grpc] serverAddr = 127.0.0.1:10081\n        → [grpc] listen = 127.0.0.1:10081",
            "[grpc] gatewayAddr = 127.0.0.1:10082\n        → [http] listen = 127.0.0.1:10082",
            "[etcd] enable = true\n        → nothing",
            "[etcd] registeredAddr = 127.0.0.1:2379\n        → [cluster] etcd = http://127.0.0.1:2379",
            "[etcd] listenKey = socketserver\n        → [cluster] gopusher_key = socketserver",
        ] {
            assert!(told[0].contains(line), "{line} is missing in\n{}", told[0]);
        }
        assert!(!told[0].contains("did you mean") && told[0].contains("docs/migrate.md"), "{}", told[0]);
    }

    #[test]
    fn the_file_that_the_answer_ends_with_is_one_of_oxipush() {
        let told = told(ITS_FILE).remove(0);
        let (_, file) = told.split_once("As a file of oxipush:\n").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.ini");
        fs::write(&path, file).unwrap();
        let config = load(Some(&path), []).unwrap();
        assert_eq!(config.socket.listen.to_string(), "127.0.0.1:10080");
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:10082");
        assert_eq!(config.grpc.listen.to_string(), "127.0.0.1:10081");
        assert_eq!(
            (config.queue.nsqd, config.queue.nsqd_http),
            (vec!["127.0.0.1:4152".into()], vec!["127.0.0.1:4153".into()])
        );
        assert_eq!((config.queue.channel.as_str(), config.queue.processors), ("one", 10));
        assert_eq!(config.cluster.gopusher_key.as_deref(), Some("socketserver"));
    }

    #[test]
    fn one_key_of_gopusher_is_enough_and_what_neither_has_is_told_beside_it() {
        for text in [
            "[gin]\nserverAddr = :8080\n",
            "[etcd]\n",
            "[queue]\nproducerAddr = a:1\n",
            "[grpc]\ngatewayAddr = :8081\n",
            "[log]\nreportCaller = true\n",
            "[log]\nlevel = 4\n",
        ] {
            let told = told(text);
            assert!(told.len() == 1 && told[0].starts_with("this is a config.ini of gopusher"), "{text}: {told:#?}");
        }
        assert!(told("[gin]\nserverAddr = :8080\n")[0].contains("→ [socket] listen = 0.0.0.0:8080"));
        assert!(told("[gin]\nserverAddr =\n")[0].contains("→ [socket] listen = 127.0.0.1:18080"), "its own default");
        assert!(told("[gin]\nserverAddr = x\n")[0].contains("none that can be taken over"));
        let both = told("[gin]\nserverAddr = :8080\nport = 1\n[queue]\ntopc = x\n");
        assert_eq!(both.len(), 3, "{both:#?}");
        assert!(
            both[1].contains("[gin] port: there is no such section") && both[2].contains("did you mean topic?"),
            "{both:#?}"
        );
    }

    #[test]
    fn without_enable_no_etcd_is_written() {
        let told =
            told("[etcd]\nenable = false\nregisteredAddr = 10.0.0.1:2379\n[gin]\nserverAddr = 127.0.0.1:1\n").remove(0);
        let (_, file) = told.split_once("As a file of oxipush:\n").unwrap();
        assert!(!file.contains("etcd") && file.contains("listen = 127.0.0.1:1"), "{file}");
    }

    #[test]
    fn migrate_md_has_the_same_table() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrate.md");
        let page = fs::read_to_string(page).unwrap();
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `["))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let ours: Vec<Vec<String>> = KEYS
            .iter()
            .map(|known| {
                let here = known.ours.map_or("-".into(), |(section, key)| format!("`[{section}] {key}`"));
                vec![format!("`[{}] {}`", known.section, known.key), here, known.note.to_owned()]
            })
            .collect();
        assert_eq!(rows, ours);
    }
}
