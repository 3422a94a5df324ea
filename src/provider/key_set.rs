//! The signing keys of a provider: a JSON Web Key Set (RFC 7517), whose keys are those of RFC 7518, section 6, and RFC
//! 8037, section 2.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::error::RequestProblem;

/// The most keys of a set.
const MAX_KEYS: usize = 100;

/// The bytes of a coordinate of P-256, and of a key of Ed25519.
const COORDINATE: usize = 32;

/// An algorithm of signatures that counts (RFC 7518, section 3.1; RFC 8037, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256, by keys of 2048 to 8192 bits.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    pub(super) const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    /// The value of `alg`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// The public keys of a provider that may sign ID tokens.
pub(super) struct KeySet(Vec<Key>);

/// One of them.
pub(super) struct Key {
    /// `kid`
    id: Option<Box<str>>,
    public: PublicKey,
}

enum PublicKey {
    /// Modulus and exponent, without zeros before them.
    Rsa(RsaPublicKeyComponents<Box<[u8]>>),
    /// The point, uncompressed.
    P256([u8; 1 + 2 * COORDINATE]),
    Ed25519([u8; COORDINATE]),
}

impl KeySet {
    /// Reads the keys that are for signatures by RS256, ES256 or EdDSA, and passes over all others.
    ///
    /// # Errors
    /// It is not a set of keys, or has more than [`MAX_KEYS`].
    pub(super) fn read(set: &Map<String, Value>) -> Result<Self, RequestProblem> {
        let keys = set.get("keys").and_then(Value::as_array).ok_or(RequestProblem::Member("keys"))?;
        if keys.len() > MAX_KEYS {
            return Err(RequestProblem::TooManyKeys(MAX_KEYS));
        }
        Ok(Self(keys.iter().filter_map(Value::as_object).filter_map(Key::read).collect()))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The keys for this algorithm that have this id, or any when there is none to go by.
    pub(super) fn fitting(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        let has_id = move |key: &&Key| id.is_none() || key.id.as_deref() == id;
        self.0.iter().filter(move |key| key.public.algorithm() == algorithm).filter(has_id)
    }
}

impl Key {
    fn read(key: &Map<String, Value>) -> Option<Self> {
        let public = PublicKey::read(key)?;
        let is = |member, expected| match key.get(member) {
            None => true,
            Some(value) => value == expected,
        };
        let verifies = match key.get("key_ops") {
            None => true,
            Some(operations) => {
                operations.as_array().is_some_and(|list| list.iter().any(|operation| operation == "verify"))
            }
        };
        if !is("use", "sig") || !is("alg", public.algorithm().as_str()) || !verifies {
            return None;
        }
        let id = match key.get("kid") {
            None => None,
            Some(id) => Some(id.as_str()?.into()),
        };
        Some(Self { id, public })
    }

    /// Whether `signature` is that of `message` by this key.
    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.public {
            PublicKey::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            PublicKey::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            PublicKey::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
        };
        verified.is_ok()
    }
}

impl PublicKey {
    fn read(key: &Map<String, Value>) -> Option<Self> {
        let text = |member| key.get(member).and_then(Value::as_str);
        let bytes = |member| URL_SAFE_NO_PAD.decode(text(member)?).ok();
        let coordinate = |member| <[u8; COORDINATE]>::try_from(bytes(member)?).ok();
        // Some programs write the sign of a number before it.
        let number = |member| {
            let bytes = bytes(member)?;
            let start = bytes.iter().position(|&byte| byte != 0)?;
            Some(bytes[start..].into())
        };
        match (text("kty")?, text("crv")) {
            ("RSA", _) => Some(Self::Rsa(RsaPublicKeyComponents { n: number("n")?, e: number("e")? })),
            ("EC", Some("P-256")) => {
                let mut point = [0x04; 1 + 2 * COORDINATE];
                point[1..=COORDINATE].copy_from_slice(&coordinate("x")?);
                point[1 + COORDINATE..].copy_from_slice(&coordinate("y")?);
                Some(Self::P256(point))
            }
            ("OKP", Some("Ed25519")) => Some(Self::Ed25519(coordinate("x")?)),
            _ => None,
        }
    }

    /// The one algorithm that the key is for.
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa(_) => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // The keys of RFC 7517, appendix A.1, and of RFC 8037, appendix A.2.
    const N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    const X: &str = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4";
    const Y: &str = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM";
    const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn count(keys: Value) -> usize {
        KeySet::read(&Map::from_iter([("keys".to_owned(), keys)])).unwrap().len()
    }

    #[test]
    fn only_keys_for_our_algorithms_and_for_signatures_are_taken() {
        let rsa = json!({"kty": "RSA", "n": N, "e": "AQAB"});
        let ec = json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y});
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": ED});
        let with = |key: &Value, member: &str, value: Value| {
            let mut key = key.clone();
            key[member] = value;
            key
        };
        assert_eq!(count(json!([rsa, ec, ed])), 3);
        for (key, name) in [(&rsa, "RS256"), (&ec, "ES256"), (&ed, "EdDSA")] {
            assert_eq!(count(json!([with(key, "alg", json!(name))])), 1, "{name}");
            for alg in ["HS256", "none", "PS256", "RS512", "ES384", "RSA-OAEP", "rs256", ""] {
                assert_eq!(count(json!([with(key, "alg", json!(alg))])), 0, "{name} {alg}");
            }
            assert_eq!(count(json!([with(key, "alg", json!(7))])), 0);
            assert_eq!(count(json!([with(key, "use", json!("sig"))])), 1);
            assert_eq!(count(json!([with(key, "use", json!("enc"))])), 0);
            assert_eq!(count(json!([with(key, "key_ops", json!(["verify"]))])), 1);
            assert_eq!(count(json!([with(key, "key_ops", json!(["encrypt"]))])), 0);
            assert_eq!(count(json!([with(key, "kid", json!(7))])), 0);
        }
        for other in [
            json!({"kty": "oct", "k": "c2VjcmV0"}),
            json!({"kty": "EC", "crv": "P-384", "x": X, "y": Y}),
            json!({"kty": "OKP", "crv": "X25519", "x": ED}),
            json!({"kty": "RSA", "n": "=", "e": "AQAB"}),
            json!({"kty": "RSA", "n": "AAAA", "e": "AQAB"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": "AQAB"}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}),
            json!({"kty": "RSA", "e": "AQAB"}),
            json!({}),
            json!("a"),
        ] {
            assert_eq!(count(json!([other])), 0, "{other}");
        }
    }

    #[test]
    fn signatures_of_the_rfcs_are_verified() {
        let verify = |key: Value, message: &str, signature: &str| {
            let key = Key::read(key.as_object().unwrap()).unwrap();
            key.signed(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        };
        // RFC 8037, appendix A.4.
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": ED});
        let message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature =
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        assert!(verify(ed.clone(), message, signature));
        assert!(!verify(ed.clone(), &message.to_uppercase(), signature));
        assert!(!verify(ed, message, "hgyY"));
        // RFC 7515, appendix A.3.
        let payload =
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let ec = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
        let message = format!("eyJhbGciOiJFUzI1NiJ9.{payload}");
        let signature =
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        assert!(verify(ec.clone(), &message, signature));
        assert!(!verify(ec, &message.to_uppercase(), signature));
    }

    #[test]
    fn a_set_is_a_list_of_at_most_a_hundred() {
        for set in [json!({}), json!({"keys": {}}), json!({"keys": null})] {
            let problem = KeySet::read(set.as_object().unwrap()).err().unwrap();
            assert!(matches!(problem, RequestProblem::Member("keys")), "{set}");
        }
        let ed = |kid: usize| json!({"kty": "OKP", "crv": "Ed25519", "x": ED, "kid": kid.to_string()});
        assert_eq!(count((0..MAX_KEYS).map(ed).collect()), MAX_KEYS);
        let many: Value = (0..=MAX_KEYS).map(ed).collect();
        let read = KeySet::read(json!({"keys": many}).as_object().unwrap());
        assert!(matches!(read.err(), Some(RequestProblem::TooManyKeys(MAX_KEYS))));
    }

    #[test]
    fn a_key_is_found_by_algorithm_and_id() {
        let set = json!({"keys": [
            {"kty": "RSA", "n": N, "e": "AQAB", "kid": "a"},
            {"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": "a"},
            {"kty": "EC", "crv": "P-256", "x": X, "y": Y},
        ]});
        let set = KeySet::read(set.as_object().unwrap()).unwrap();
        let count = |algorithm, id| set.fitting(algorithm, id).count();
        assert_eq!((count(Algorithm::Rs256, Some("a")), count(Algorithm::Rs256, Some("b"))), (1, 0));
        assert_eq!((count(Algorithm::Es256, Some("a")), count(Algorithm::Es256, None)), (1, 2));
        assert_eq!((count(Algorithm::Rs256, None), count(Algorithm::EdDsa, None)), (1, 0));
    }
}
