//! OpenTelemetry's environment variables, as far as the library does not read them itself.

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};

/// The SDK's default of `OTEL_BSP_MAX_QUEUE_SIZE`.
const DEFAULT_QUEUE: usize = 2048;

/// The samplers that the SDK has.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// How traces are sent.
#[derive(Debug)]
pub(super) struct TraceSettings {
    /// With a scheme.
    pub endpoint: String,
    /// How an `https` endpoint is trusted.
    pub tls: Option<ClientTlsConfig>,
    /// Spans that may wait to be sent.
    pub queue: usize,
    /// The environment names no service: the program's own name stands.
    pub names_itself: bool,
    /// A mistake that does not keep traces from being sent.
    pub warning: Option<String>,
}

/// A variable that says what cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Another transport than gRPC.
    #[error("{variable} is {value:?}, and only grpc is supported (port 4317 of most collectors)")]
    Protocol {
        /// The variable's name.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// An exporter of another kind.
    #[error("OTEL_TRACES_EXPORTER is {0:?}, and only otlp is supported")]
    Exporter(String),
    /// A user name and a password in the endpoint would be sent nowhere.
    #[error("{0} contains a user name or a password: put credentials into OTEL_EXPORTER_OTLP_HEADERS")]
    UserInfo(&'static str),
    /// A file of certificates or a key that cannot be read.
    #[error("{variable}: cannot read {path}: {error}")]
    File {
        /// The variable's name.
        variable: &'static str,
        /// Its value.
        path: String,
        /// The error of the operating system.
        error: String,
    },
    /// A client's certificate without its key, or the other way round.
    #[error("a client certificate and its key must be set together")]
    HalfIdentity,
}

/// A variable for traces alone, and the one for all signals that it goes before.
type Pair = (&'static str, &'static str);

const ENDPOINT: Pair = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
const PROTOCOL: Pair = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL");
const INSECURE: Pair = ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE");
const CERTIFICATE: Pair = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE");
const CLIENT_CERTIFICATE: Pair =
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE");
const CLIENT_KEY: Pair = ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY");

impl TraceSettings {
    /// What these variables say; `None` when they want no traces.  An empty variable counts as unset
    /// (OpenTelemetry, "Environment Variable Specification").
    ///
    /// # Errors
    /// [`SettingsError`].
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, SettingsError> {
        let set = |name: &'static str| Some((name, variable(name).filter(|value| !value.is_empty())?));
        let either = |(own, general): Pair| set(own).or_else(|| set(general));
        let value = |name| set(name).map(|(_, value)| value);

        let disabled = value("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let Some((endpoint_variable, endpoint)) = either(ENDPOINT).filter(|_| !disabled) else {
            return Ok(None);
        };
        match value("OTEL_TRACES_EXPORTER").as_deref() {
            Some("otlp") | None => {}
            Some("none") => return Ok(None),
            Some(other) => return Err(SettingsError::Exporter(other.to_owned())),
        }
        if let Some((variable, value)) = either(PROTOCOL).filter(|(_, value)| value != "grpc") {
            return Err(SettingsError::Protocol { variable, value });
        }
        if endpoint.contains('@') {
            return Err(SettingsError::UserInfo(endpoint_variable));
        }
        let insecure = either(INSECURE).is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
        let endpoint = match endpoint.contains("://") {
            true => endpoint,
            false if insecure => format!("http://{endpoint}"),
            false => format!("https://{endpoint}"),
        };
        let tls = if endpoint.starts_with("https://") { Some(tls(either)?) } else { None };
        let in_resource = value("OTEL_RESOURCE_ATTRIBUTES");
        let in_resource = in_resource.iter().flat_map(|pairs| pairs.split(','));
        let mut in_resource = in_resource.filter_map(|pair| pair.split_once('='));
        let named = value("OTEL_SERVICE_NAME").is_some()
            || in_resource.any(|(name, _)| name.trim() == "service.name");
        let queue = value("OTEL_BSP_MAX_QUEUE_SIZE").and_then(|value| value.parse().ok());
        let sampler = value("OTEL_TRACES_SAMPLER").filter(|name| !SAMPLERS.contains(&name.as_str()));
        Ok(Some(Self {
            endpoint,
            tls,
            queue: queue.unwrap_or(DEFAULT_QUEUE).max(1),
            names_itself: !named,
            warning: sampler.map(|name| {
                let samplers = SAMPLERS.join(", ");
                format!("OTEL_TRACES_SAMPLER is {name:?}, not one of {samplers}: parentbased_always_on it is")
            }),
        }))
    }
}

/// Certificates of the system, or of the file that is named instead.
fn tls(either: impl Fn(Pair) -> Option<(&'static str, String)>) -> Result<ClientTlsConfig, SettingsError> {
    let file = |pair| either(pair).map(|(variable, path)| read(variable, path)).transpose();
    let tls = match file(CERTIFICATE)? {
        Some(authorities) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (file(CLIENT_CERTIFICATE)?, file(CLIENT_KEY)?) {
        (Some(certificate), Some(key)) => Ok(tls.identity(Identity::from_pem(certificate, key))),
        (None, None) => Ok(tls),
        (Some(_), None) | (None, Some(_)) => Err(SettingsError::HalfIdentity),
    }
}

fn read(variable: &'static str, path: String) -> Result<Vec<u8>, SettingsError> {
    std::fs::read(&path).map_err(|error| SettingsError::File { variable, path, error: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<TraceSettings>, SettingsError> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name);
        TraceSettings::read(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    const HERE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");

    #[test]
    fn nothing_is_sent_unless_an_endpoint_is_set() {
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[("OTEL_SERVICE_NAME", "gateway"), ("OTEL_TRACES_SAMPLER", "always_on")],
            &[HERE, ("OTEL_SDK_DISABLED", "TRUE")],
            &[HERE, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(read(variables).unwrap().is_none(), "{variables:?}");
        }
        let settings = read(&[HERE, ("OTEL_SDK_DISABLED", "no"), ("OTEL_TRACES_EXPORTER", "otlp")]);
        let settings = settings.unwrap().unwrap();
        assert_eq!((settings.endpoint.as_str(), settings.queue), (HERE.1, DEFAULT_QUEUE));
        assert!(settings.tls.is_none() && settings.names_itself && settings.warning.is_none());
    }

    #[test]
    fn the_variable_for_traces_goes_before_the_one_for_all_signals() {
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317");
        assert_eq!(read(&[HERE, own]).unwrap().unwrap().endpoint, own.1);
        let general = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        assert!(read(&[HERE, general, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")]).is_ok());
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_https_unless_it_may_be_insecure() {
        let bare = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
        let settings = read(&[bare, ("OTEL_EXPORTER_OTLP_INSECURE", "true")]).unwrap().unwrap();
        assert_eq!(settings.endpoint, "http://collector:4317");
        assert!(settings.tls.is_none());
        let settings = read(&[bare]).unwrap().unwrap();
        assert_eq!(settings.endpoint, "https://collector:4317");
        assert!(settings.tls.is_some());
    }

    #[test]
    fn the_service_has_its_own_name_unless_the_environment_has_one() {
        let names_itself = |variable| read(&[HERE, variable]).unwrap().unwrap().names_itself;
        assert!(names_itself(("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod")));
        assert!(!names_itself(("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name = gateway")));
        assert!(!names_itself(("OTEL_SERVICE_NAME", "gateway")));
    }

    #[test]
    fn what_is_not_supported_is_said_with_the_variables_name() {
        let error_of = |variable| read(&[HERE, variable]).unwrap_err().to_string();
        let protocol = error_of(("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"));
        assert!(protocol.starts_with("OTEL_EXPORTER_OTLP_PROTOCOL is \"http/protobuf\""), "{protocol}");
        assert!(
            error_of(("OTEL_TRACES_EXPORTER", "zipkin")).starts_with("OTEL_TRACES_EXPORTER is \"zipkin\"")
        );
        let secret = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:secret@there")]).unwrap_err();
        assert!(!secret.to_string().contains("secret@"), "{secret}");
        let https = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://there");
        let missing = read(&[https, ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")]).unwrap_err();
        assert!(missing.to_string().starts_with("OTEL_EXPORTER_OTLP_CERTIFICATE: cannot read"), "{missing}");
        let half = read(&[https, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/etc/hostname")]);
        assert_eq!(half.unwrap_err(), SettingsError::HalfIdentity);
    }

    #[test]
    fn an_unknown_sampler_is_a_warning() {
        let warning = |name| read(&[HERE, ("OTEL_TRACES_SAMPLER", name)]).unwrap().unwrap().warning;
        assert_eq!(warning("parentbased_traceidratio"), None);
        assert!(warning("xray").unwrap().starts_with("OTEL_TRACES_SAMPLER is \"xray\""));
    }
}
