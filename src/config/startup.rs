//! Differences that a reload cannot apply: they are reported, and take effect at a restart.

use super::{ExtAuthz, Probes, Startup, Transport};
use crate::keys::store::StoreUrl;

/// A key whose new value needs a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeedsRestart {
    /// The path of the key, such as `ext_authz.listen`.
    pub key: &'static str,
    /// The current value.  Neither text holds a user name or a password.
    pub from: String,
    /// The value in the file; the same text where only a part differs that is not shown.
    pub to: String,
}

const ABSENT: &str = "absent";

/// Whether a listener speaks TLS.  A reload can change its certificates.
fn presence(transport: Transport) -> Option<String> {
    match transport {
        Transport::Plain => None,
        Transport::Tls => Some("present".to_owned()),
    }
}

impl Startup {
    /// The keys whose values differ between these start-up settings and others.
    pub fn differences(&self, other: &Self) -> Vec<NeedsRestart> {
        // The patterns name every member, so that a new one cannot be forgotten here.
        let Self { ext_authz, probes, admin: _, keys: _ } = self;
        let ExtAuthz { listen, transport, max_request_bytes, max_connections } = ext_authz;
        let Probes { listen: probes_listen } = probes;
        let admin_listen = |startup: &Self| startup.admin.as_ref().map(|admin| admin.listen.to_string());
        let admin_transport = |startup: &Self| startup.admin.as_ref().map(|admin| admin.transport);
        let store = |startup: &Self| startup.keys.as_ref().map(|keys| keys.url.clone());
        let shown = |url: Option<StoreUrl>| url.map(|url| url.to_string());
        let read_only = |startup: &Self| startup.keys.as_ref().map(|keys| keys.read_only);
        let mut differences = Vec::new();
        let mut record = |differs: bool, key, from: Option<String>, to: Option<String>| {
            if differs {
                let shown = |value: Option<String>| value.unwrap_or_else(|| ABSENT.to_owned());
                differences.push(NeedsRestart { key, from: shown(from), to: shown(to) });
            }
        };
        record(
            *listen != other.ext_authz.listen,
            "ext_authz.listen",
            Some(listen.to_string()),
            Some(other.ext_authz.listen.to_string()),
        );
        record(
            *transport != other.ext_authz.transport,
            "ext_authz.tls",
            presence(*transport),
            presence(other.ext_authz.transport),
        );
        record(
            *max_request_bytes != other.ext_authz.max_request_bytes,
            "ext_authz.max_request_bytes",
            Some(max_request_bytes.to_string()),
            Some(other.ext_authz.max_request_bytes.to_string()),
        );
        record(
            *max_connections != other.ext_authz.max_connections,
            "ext_authz.max_connections",
            Some(max_connections.to_string()),
            Some(other.ext_authz.max_connections.to_string()),
        );
        record(
            *probes_listen != other.probes.listen,
            "probes.listen",
            Some(probes_listen.to_string()),
            Some(other.probes.listen.to_string()),
        );
        let (old, new) = (admin_listen(self), admin_listen(other));
        record(old != new, "admin.listen", old, new);
        // A section that is added or removed is reported by its address already.
        if let (Some(old), Some(new)) = (admin_transport(self), admin_transport(other)) {
            record(old != new, "admin.tls", presence(old), presence(new));
        }
        let (old, new) = (store(self), store(other));
        let is_same = match (&old, &new) {
            (Some(old), Some(new)) => old.is_same_database(new),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        record(!is_same, "keys.store", shown(old), shown(new));
        if let (Some(old), Some(new)) = (read_only(self), read_only(other)) {
            record(old != new, "keys.read_only", Some(old.to_string()), Some(new.to_string()));
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::reference::NEEDS_RESTART;
    use super::super::{AdminListen, KeyStore};
    use super::*;

    fn startup(listen: &str, admin: Option<&str>, store: Option<&str>) -> Startup {
        Startup {
            ext_authz: ExtAuthz {
                listen: listen.parse().unwrap(),
                transport: Transport::Plain,
                max_request_bytes: 1024,
                max_connections: 4096,
            },
            probes: Probes { listen: "127.0.0.1:3".parse().unwrap() },
            admin: admin
                .map(|listen| AdminListen { listen: listen.parse().unwrap(), transport: Transport::Plain }),
            keys: store.map(|url| KeyStore { url: StoreUrl::parse(url).unwrap(), read_only: false }),
        }
    }

    #[test]
    fn what_differs_is_named_without_secrets() {
        let old =
            startup("127.0.0.1:1", Some("127.0.0.1:2"), Some("postgres://u:old-password@db.example/keys"));
        assert_eq!(old.differences(&old.clone()), []);
        // Another password for the same database is taken over.
        let rotated = "postgres://u:new-password@db.example/keys?connect_timeout=1";
        let rotated = startup("127.0.0.1:1", Some("127.0.0.1:2"), Some(rotated));
        assert_eq!(old.differences(&rotated), []);
        let mut new = startup("unix:/run/x", None, Some("postgres://u:new-password@db.example/other"));
        new.ext_authz.max_request_bytes = 2048;
        new.ext_authz.max_connections = 10;
        new.ext_authz.transport = Transport::Tls;
        new.keys.as_mut().unwrap().read_only = true;
        let found: Vec<_> = old.differences(&new);
        let found: Vec<_> = found.iter().map(|one| (one.key, one.from.as_str(), one.to.as_str())).collect();
        assert_eq!(
            found,
            [
                ("ext_authz.listen", "127.0.0.1:1", "unix:/run/x"),
                ("ext_authz.tls", "absent", "present"),
                ("ext_authz.max_request_bytes", "1024", "2048"),
                ("ext_authz.max_connections", "4096", "10"),
                ("admin.listen", "127.0.0.1:2", "absent"),
                ("keys.store", "postgres://db.example:5432/keys", "postgres://db.example:5432/other"),
                ("keys.read_only", "false", "true"),
            ]
        );
        new.probes.listen = "127.0.0.1:4".parse().unwrap();
        new.admin = startup("127.0.0.1:1", Some("127.0.0.1:5"), None).admin;
        new.admin.as_mut().unwrap().transport = Transport::Tls;
        let all: Vec<_> = old.differences(&new).iter().map(|one| one.key).collect();
        assert_eq!(all, NEEDS_RESTART);
    }
}
