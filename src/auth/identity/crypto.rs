//! The cryptography of tokens: jsonwebtoken's formats over ring, which TLS has brought along. jsonwebtoken's own backends would
//! add a second C library (aws-lc) or sixty crates that verify ES256 at a third of ring's speed (RustCrypto).

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result, new_error},
    signature::{Error as SignatureError, Signer, Verifier},
};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
        ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
        RSA_PSS_2048_8192_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
        RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
    },
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(RingSigner { algorithm: supported(*algorithm)?, key: key.clone() })),
    verifier_factory: |algorithm, key| {
        Ok(Box::new(RingVerifier { algorithm: supported(*algorithm)?, key: key.clone() }))
    },
    // for making JWKs of keys, which nobody does here
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes ring what jsonwebtoken uses in this process.
pub(super) fn install() {
    // an error says that it is installed already
    let _ = PROVIDER.install_default();
}

/// What any key admits; HMAC with longer hashes is not among it, since nothing asks for it.
const SUPPORTED: &[Algorithm] = &[
    Algorithm::HS256,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

fn supported(algorithm: Algorithm) -> Result<Algorithm> {
    if SUPPORTED.contains(&algorithm) { Ok(algorithm) } else { Err(new_error(ErrorKind::UnsupportedAlgorithm)) }
}

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl RingVerifier {
    fn verify_with(&self, algorithm: &'static dyn VerificationAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        let Ok(key) = self.key.try_get_as_bytes() else { return false };
        UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
    }

    fn verify_rsa(&self, algorithm: &'static RsaParameters, message: &[u8], signature: &[u8]) -> bool {
        match self.key.kind() {
            DecodingKeyKind::SecretOrDer(_) => self.verify_with(algorithm, message, signature),
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(algorithm, message, signature).is_ok()
            }
        }
    }

    fn verify_hmac(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(secret) = self.key.try_get_as_bytes() else { return false };
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), message, signature).is_ok()
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), SignatureError> {
        let is_good = match self.algorithm {
            Algorithm::HS256 => self.verify_hmac(message, signature),
            Algorithm::ES256 => self.verify_with(&ECDSA_P256_SHA256_FIXED, message, signature),
            Algorithm::ES384 => self.verify_with(&ECDSA_P384_SHA384_FIXED, message, signature),
            Algorithm::EdDSA => self.verify_with(&ED25519, message, signature),
            Algorithm::RS256 => self.verify_rsa(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Algorithm::RS384 => self.verify_rsa(&RSA_PKCS1_2048_8192_SHA384, message, signature),
            Algorithm::RS512 => self.verify_rsa(&RSA_PKCS1_2048_8192_SHA512, message, signature),
            Algorithm::PS256 => self.verify_rsa(&RSA_PSS_2048_8192_SHA256, message, signature),
            Algorithm::PS384 => self.verify_rsa(&RSA_PSS_2048_8192_SHA384, message, signature),
            Algorithm::PS512 => self.verify_rsa(&RSA_PSS_2048_8192_SHA512, message, signature),
            _ => false,
        };
        if is_good { Ok(()) } else { Err(SignatureError::new()) }
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct RingSigner {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl RingSigner {
    fn sign_hmac(&self, message: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.key.as_bytes()), message).as_ref().to_vec()
    }

    fn sign_ecdsa(&self, algorithm: &'static EcdsaSigningAlgorithm, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, self.key.as_bytes(), &random).ok()?;
        Some(pair.sign(&random, message).ok()?.as_ref().to_vec())
    }

    fn sign_ed25519(&self, message: &[u8]) -> Option<Vec<u8>> {
        // openssl leaves the public half out
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(self.key.as_bytes()).ok()?;
        Some(pair.sign(message).as_ref().to_vec())
    }

    fn sign_rsa(&self, encoding: &'static dyn RsaEncoding, message: &[u8]) -> Option<Vec<u8>> {
        let pair = RsaKeyPair::from_der(self.key.as_bytes()).ok()?;
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).ok()?;
        Some(signature)
    }
}

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, SignatureError> {
        let signature = match self.algorithm {
            Algorithm::HS256 => Some(self.sign_hmac(message)),
            Algorithm::ES256 => self.sign_ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, message),
            Algorithm::ES384 => self.sign_ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, message),
            Algorithm::EdDSA => self.sign_ed25519(message),
            Algorithm::RS256 => self.sign_rsa(&RSA_PKCS1_SHA256, message),
            Algorithm::RS384 => self.sign_rsa(&RSA_PKCS1_SHA384, message),
            Algorithm::RS512 => self.sign_rsa(&RSA_PKCS1_SHA512, message),
            Algorithm::PS256 => self.sign_rsa(&RSA_PSS_SHA256, message),
            Algorithm::PS384 => self.sign_rsa(&RSA_PSS_SHA384, message),
            Algorithm::PS512 => self.sign_rsa(&RSA_PSS_SHA512, message),
            _ => None,
        };
        signature.ok_or_else(SignatureError::new)
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
