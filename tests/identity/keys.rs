//! An issuer's keys, and tokens of any form by them.

use std::{fs, process::Command};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
        RsaEncoding, RsaKeyPair,
    },
};
use serde_json::{Value, json};

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A private key in PKCS#8 DER, and how it signs.
pub enum Signing {
    Hmac(Vec<u8>),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

pub struct Key {
    pub signing: Signing,
    /// PKCS#8, in PEM.
    pub private_pem: String,
    public_der: Vec<u8>,
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// What stands before the point of a public key (SPKI; RFC 5480, 8410).
const P256: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\0";
const P384: &[u8] = b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\0\x22\x03\x62\0";
const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\0";

/// What stands before the seed of a private key of Ed25519 (RFC 8410, section 7).
const SEED: &[u8] = b"\x30\x2e\x02\x01\0\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

impl Key {
    pub fn secret(secret: &str) -> Self {
        let signing = Signing::Hmac(secret.as_bytes().to_vec());
        Self { signing, private_pem: String::new(), public_der: Vec::new() }
    }

    pub fn p256() -> Self {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &random).unwrap();
        let public_der = [P256, pair.public_key().as_ref()].concat();
        Self { signing: Signing::P256(pair), private_pem: pem("PRIVATE KEY", der.as_ref()), public_der }
    }

    pub fn p384() -> Self {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der.as_ref(), &random).unwrap();
        let public_der = [P384, pair.public_key().as_ref()].concat();
        Self { signing: Signing::P384(pair), private_pem: pem("PRIVATE KEY", der.as_ref()), public_der }
    }

    pub fn ed25519() -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
        let public_der = [ED25519, pair.public_key().as_ref()].concat();
        // ring's own form (version 2 of PKCS#8) is not everybody's; both have the seed in one place
        let plain = [SEED, &der.as_ref()[SEED.len()..SEED.len() + 32]].concat();
        Self { signing: Signing::Ed25519(pair), private_pem: pem("PRIVATE KEY", &plain), public_der }
    }

    /// Of openssl, since ring makes none.
    pub fn rsa() -> Self {
        let (private_pem, public_der) = rsa_of(2048);
        let private = EncodingKey::from_rsa_pem(private_pem.as_bytes()).unwrap();
        let signing = Signing::Rsa(RsaKeyPair::from_der(private.as_bytes()).unwrap());
        Self { signing, private_pem, public_der }
    }

    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.public_der)
    }

    /// What it signs by itself.
    pub fn algorithm(&self) -> Algorithm {
        match self.signing {
            Signing::Hmac(_) => Algorithm::HS256,
            Signing::P256(_) => Algorithm::ES256,
            Signing::P384(_) => Algorithm::ES384,
            Signing::Ed25519(_) => Algorithm::EdDSA,
            Signing::Rsa(_) => Algorithm::RS256,
        }
    }

    pub fn jwk(&self, kid: &str) -> Value {
        match &self.signing {
            Signing::Hmac(secret) => json!({"kty": "oct", "kid": kid, "k": base64url(secret)}),
            Signing::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": base64url(&point[1..33]), "y": base64url(&point[33..])})
            }
            Signing::P384(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-384", "kid": kid, "x": base64url(&point[1..49]), "y": base64url(&point[49..])})
            }
            Signing::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64url(pair.public_key())})
            }
            Signing::Rsa(pair) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "kid": kid, "n": base64url(public.n), "e": base64url(public.e)})
            }
        }
    }

    pub fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signing {
            Signing::Hmac(secret) => {
                let hash = match algorithm {
                    Algorithm::HS384 => hmac::HMAC_SHA384,
                    Algorithm::HS512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec()
            }
            Signing::P256(pair) | Signing::P384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Signing::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Signing::Rsa(pair) => {
                let encoding: &dyn RsaEncoding = match algorithm {
                    Algorithm::RS384 => &RSA_PKCS1_SHA384,
                    Algorithm::RS512 => &RSA_PKCS1_SHA512,
                    Algorithm::PS256 => &RSA_PSS_SHA256,
                    Algorithm::PS384 => &RSA_PSS_SHA384,
                    Algorithm::PS512 => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// A token with any head and claims, signed as `algorithm`.
    pub fn token_with(&self, algorithm: Algorithm, head: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64url(head.to_string()), base64url(claims.to_string()));
        let signature = self.sign(algorithm, message.as_bytes());
        format!("{message}.{}", base64url(signature))
    }

    /// A token as an issuer makes it.
    pub fn token(&self, kid: Option<&str>, claims: &Value) -> String {
        let algorithm = self.algorithm();
        let mut head = json!({"typ": "JWT", "alg": format!("{algorithm:?}")});
        if let Some(kid) = kid {
            head["kid"] = kid.into();
        }
        self.token_with(algorithm, &head, claims)
    }
}

/// A public key that is too short to sign by.
pub fn weak_rsa_pem() -> String {
    pem("PUBLIC KEY", &rsa_of(1024).1)
}

fn rsa_of(bits: usize) -> (String, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let bits = format!("rsa_keygen_bits:{bits}");
    let made =
        Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", &bits, "-out"]).arg(&path).output();
    assert!(made.unwrap().status.success(), "openssl made no key");
    let public = Command::new("openssl").args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(&path).output();
    (fs::read_to_string(&path).unwrap(), public.unwrap().stdout)
}
