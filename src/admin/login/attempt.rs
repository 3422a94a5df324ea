//! Attempts: log-ins at a provider that are under way.
//!
//! Nothing of an attempt is kept on the server.  The browser holds it in a cookie, sealed with AES-256-GCM by a key
//! that the store keeps, so that only the replicas can read it.  The cookie's name holds the beginning of the state, so
//! that two tabs have a cookie each.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::attributes::Headers;
use crate::config::ProviderSettings;
use crate::credential::cookie;
use crate::token::TokenDigest;

/// How long an attempt may take.
pub(super) const ATTEMPT_TTL: SignedDuration = SignedDuration::from_mins(10);
/// Attempts that a browser may have at a time; one more ends the oldest.
const MAX_ATTEMPTS: usize = 5;
/// Characters of the state in the cookie's name.
const NAME_CHARACTERS: usize = 8;
/// Bytes of randomness in a state, a nonce and a verifier.
const RANDOM_BYTES: usize = 32;
/// The longest value of a cookie that is looked at.
const MAX_COOKIE_BYTES: usize = 4096;

/// A log-in at a provider that is under way.
#[derive(Serialize, Deserialize)]
pub(super) struct Attempt {
    /// The provider: another one's answer is not taken.
    provider: String,
    /// The value that the provider returns (RFC 6749 section 10.12).
    pub state: String,
    /// The value that the ID token repeats (OpenID Connect Core 1.0 section 3.1.2.1).
    pub nonce: String,
    /// The secret behind the code challenge (RFC 7636).
    pub verifier: String,
    /// The checked return address.
    pub return_to: Option<String>,
    /// The digest of the settings under which it began, as hexadecimal digits: after a reload the name may be another
    /// provider's.
    binding: String,
    /// The log-in host where it began; `None` for the page's own.
    login_host: Option<String>,
    /// When it began, in seconds since 1970.
    started_at: i64,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        for secret in [&mut self.state, &mut self.nonce, &mut self.verifier] {
            secret.zeroize();
        }
    }
}

/// Why a callback belongs to no attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptError {
    /// There is no cookie of it: it started in another browser, its cookie expired, or the link is made up.
    Unknown,
    /// It began more than ten minutes ago.
    Expired,
    /// It began at another provider, under other settings, or under another host.
    Other,
}

impl Attempt {
    /// A new one.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn begin(
        settings: &ProviderSettings,
        login_host: Option<&str>,
        return_to: Option<String>,
        now: Timestamp,
    ) -> Result<Self, getrandom::Error> {
        Ok(Self {
            provider: settings.name.as_str().to_owned(),
            binding: hex::encode(settings.binding),
            state: random()?,
            nonce: random()?,
            verifier: random()?,
            return_to,
            login_host: login_host.map(str::to_owned),
            started_at: now.as_second(),
        })
    }

    /// The name of its cookie.
    pub fn cookie_name(&self, prefix: &str) -> String {
        cookie_name(prefix, &self.state)
    }

    /// The value of its cookie.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn seal(&self, key: &[u8; 32], cookie_name: &str) -> Result<String, getrandom::Error> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)?;
        let mut sealed =
            Zeroizing::new(serde_json::to_vec(self).expect("texts and a number are written as JSON"));
        cipher(key)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(cookie_name),
                &mut *sealed,
            )
            .expect("an attempt is far below the limit of AES-GCM");
        Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// The attempt of this state, from the request's cookies.
    ///
    /// # Errors
    /// There is none that counts.
    pub fn find(
        headers: &Headers<'_>,
        prefix: &str,
        state: &str,
        settings: &ProviderSettings,
        login_host: Option<&str>,
        key: &[u8; 32],
        now: Timestamp,
    ) -> Result<Self, AttemptError> {
        let name = cookie_name(prefix, state);
        // Of several cookies of the name the sealed one of this state counts: a sibling host can set others.
        let of_state = |value| {
            let attempt = Self::unseal(value, key, &name)?;
            bool::from(attempt.state.as_bytes().ct_eq(state.as_bytes())).then_some(attempt)
        };
        let attempt = cookie::values(headers, &name).find_map(of_state).ok_or(AttemptError::Unknown)?;
        if attempt.is_expired(now) {
            return Err(AttemptError::Expired);
        }
        let is_of_settings =
            attempt.provider == settings.name.as_str() && attempt.binding == hex::encode(settings.binding);
        if !is_of_settings || attempt.login_host.as_deref() != login_host {
            return Err(AttemptError::Other);
        }
        Ok(attempt)
    }

    /// The names of the cookies of attempts that a browser must forget, so that it may have one more: those that are no
    /// attempts or have expired, and then the oldest.
    pub fn superfluous(headers: &Headers<'_>, prefix: &str, key: &[u8; 32], now: Timestamp) -> Vec<String> {
        let (mut live, mut superfluous) = (Vec::new(), Vec::new());
        for (name, value) in cookie::with_prefix(headers, prefix) {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            match Self::unseal(value, key, name).filter(|attempt| !attempt.is_expired(now)) {
                Some(attempt) => live.push((attempt.started_at, name.to_owned())),
                None => superfluous.push(name.to_owned()),
            }
        }
        live.sort_unstable();
        let excess = (live.len() + 1).saturating_sub(MAX_ATTEMPTS);
        superfluous.extend(live.drain(..excess).map(|(_, name)| name));
        superfluous
    }

    /// The digest by which the store remembers that the state was used.
    pub fn state_digest(&self) -> TokenDigest {
        TokenDigest::of(self.state.as_bytes())
    }

    fn unseal(value: &[u8], key: &[u8; 32], cookie_name: &str) -> Option<Self> {
        if value.len() > MAX_COOKIE_BYTES {
            return None;
        }
        let mut sealed = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (nonce, sealed) = sealed.split_first_chunk_mut::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = cipher(key).open_in_place(nonce, Aad::from(cookie_name), sealed).ok()?;
        let attempt = serde_json::from_slice(opened).ok();
        opened.zeroize();
        attempt
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        let age = now.as_second().saturating_sub(self.started_at);
        // Another replica's clock may be a little ahead.
        age >= ATTEMPT_TTL.as_secs() || age < -60
    }
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes"))
}

fn cookie_name(prefix: &str, state: &str) -> String {
    // A foreign state has no cookie: only letters and digits may get into a cookie name.
    let beginning =
        state.chars().filter(|character| character.is_ascii_alphanumeric() || "-_".contains(*character));
    format!("{prefix}{}", beginning.take(NAME_CHARACTERS).collect::<String>())
}

fn random() -> Result<String, getrandom::Error> {
    let mut bytes = Zeroizing::new([0; RANDOM_BYTES]);
    getrandom::fill(&mut *bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(*bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::attributes::{Encoding, Header};
    use crate::config::{Config, ProcessEnvironment, Source};

    const PREFIX: &str = "__Host-eat_login_";

    fn key(byte: u8) -> [u8; 32] {
        [byte; 32]
    }

    /// The settings of `NAME`, or of `NAME/CLIENT`: another client makes them another provider's.
    fn provider(name: &str) -> Arc<ProviderSettings> {
        let (name, client_id) = name.split_once('/').unwrap_or((name, "eat"));
        let text = format!(
            "keys: {{store: 'sqlite:keys.db'}}\nadmin: {{public_url: 'https://keys.example'}}\noauth:\n\
             - {{name: {name}, issuer: 'https://id.example', client_id: {client_id}, roles: [{{claim: a, value: b, role: Viewer}}]}}\n"
        );
        let source = Source { file: Path::new("config.yaml"), environment: &ProcessEnvironment, now: at(0) };
        let config = Config::parse(&text, &source).unwrap_or_else(|errors| panic!("{errors}"));
        Arc::clone(&config.rules.providers[0])
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn begin(now: i64) -> Attempt {
        Attempt::begin(&provider("corporate"), None, Some("https://app.example/".to_owned()), at(now))
            .unwrap()
    }

    fn cookie_of(attempt: &Attempt) -> String {
        let name = attempt.cookie_name(PREFIX);
        format!("{name}={}", attempt.seal(&key(1), &name).unwrap())
    }

    fn find(
        cookies: &str,
        state: &str,
        name: &str,
        host: Option<&str>,
        sealed: u8,
        now: i64,
    ) -> Result<Attempt, AttemptError> {
        let headers = vec![Header { name: b"cookie", value: cookies.as_bytes() }];
        let headers = Headers::new(Encoding::Lines, headers);
        Attempt::find(&headers, PREFIX, state, &provider(name), host, &key(sealed), at(now))
    }

    #[test]
    fn an_attempt_is_found_only_by_its_own_browser_and_within_ten_minutes() {
        let attempt = begin(1_000);
        let (cookie, state) = (cookie_of(&attempt), attempt.state.clone());
        let found = find(&cookie, &state, "corporate", None, 1, 1_599).ok().unwrap();
        assert_eq!((&found.nonce, &found.verifier), (&attempt.nonce, &attempt.verifier));
        assert_eq!(found.return_to.as_deref(), Some("https://app.example/"));
        let other = begin(1_000);
        let renamed = cookie.replacen(&attempt.cookie_name(PREFIX), &other.cookie_name(PREFIX), 1);
        let tossed = format!("{}=AAAA; {cookie}", attempt.cookie_name(PREFIX));
        let same_beginning = format!("{}{}", &state[..8], &other.state[8..]);
        for (what, cookies, state, name, host, sealed, now, expected) in [
            ("later", &cookie, &state, "corporate", None, 1, 1_600, Some(AttemptError::Expired)),
            ("from the future", &cookie, &state, "corporate", None, 1, 900, Some(AttemptError::Expired)),
            ("another provider", &cookie, &state, "other", None, 1, 1_001, Some(AttemptError::Other)),
            ("other settings", &cookie, &state, "corporate/x", None, 1, 1_001, Some(AttemptError::Other)),
            (
                "another host",
                &cookie,
                &state,
                "corporate",
                Some("app.example"),
                1,
                1_001,
                Some(AttemptError::Other),
            ),
            ("another key", &cookie, &state, "corporate", None, 2, 1_001, Some(AttemptError::Unknown)),
            ("no cookie", &String::new(), &state, "corporate", None, 1, 1_001, Some(AttemptError::Unknown)),
            (
                "another state",
                &cookie,
                &other.state,
                "corporate",
                None,
                1,
                1_001,
                Some(AttemptError::Unknown),
            ),
            (
                "the same beginning",
                &cookie,
                &same_beginning,
                "corporate",
                None,
                1,
                1_001,
                Some(AttemptError::Unknown),
            ),
            (
                "under another name",
                &renamed,
                &other.state,
                "corporate",
                None,
                1,
                1_001,
                Some(AttemptError::Unknown),
            ),
            ("beside another's", &tossed, &state, "corporate", None, 1, 1_001, None),
            ("no state", &cookie, &String::new(), "corporate", None, 1, 1_001, Some(AttemptError::Unknown)),
        ] {
            assert_eq!(find(cookies, state, name, host, sealed, now).err(), expected, "{what}");
        }
    }

    #[test]
    fn a_browser_keeps_the_four_newest_attempts_and_the_next_one() {
        let attempts: Vec<_> = (0..6).map(|number| begin(1_000 + number)).collect();
        let mut cookies: Vec<_> = attempts.iter().map(cookie_of).collect();
        cookies.push(format!("{PREFIX}x=nothing"));
        cookies.push(cookie_of(&begin(100)));
        let line = cookies.join("; ");
        let headers = Headers::new(Encoding::Lines, vec![Header { name: b"cookie", value: line.as_bytes() }]);
        let superfluous = Attempt::superfluous(&headers, PREFIX, &key(1), at(1_100));
        let name = |position: usize| attempts[position].cookie_name(PREFIX);
        assert_eq!(superfluous.len(), 4);
        assert!(superfluous.contains(&format!("{PREFIX}x")), "{superfluous:?}");
        assert!(superfluous.ends_with(&[name(0), name(1)]), "{superfluous:?}");
    }

    #[test]
    fn a_cookie_with_the_longest_return_address_fits_into_a_browser() {
        let return_to = format!("https://app.example/{}", "a".repeat(2_028));
        let attempt =
            Attempt::begin(&provider(&"p".repeat(32)), Some(&"h".repeat(253)), Some(return_to), at(1))
                .unwrap();
        assert!(cookie_of(&attempt).len() < 4_000);
    }
}
