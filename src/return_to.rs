//! Browsers and the log-in page: the redirect of a browser without a credential ([`LogInRedirect`]), and its return
//! address after log-in ([`ReturnHosts`]).
//!
//! A **return address** comes from the author of the link to the log-in page, so it is accepted only under hosts of the
//! configuration.  The comparison uses the host as a URL parser reads it, and the address is rewritten from the parsed
//! parts, so that a browser cannot read another host in it.

#[cfg(feature = "server")]
mod hosts;
mod redirect;

#[cfg(feature = "server")]
pub use hosts::ReturnHosts;
pub use redirect::{LogInRedirect, NoRedirect};

/// The maximum length of a return address, in bytes.
pub const MAX_RETURN_TO: usize = 2048;

/// The query parameter of the log-in page that holds the return address.
pub const RETURN_TO: &str = "return_to";

/// Whether a host in lower case is this domain or is below it, by whole labels.
fn is_under(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || (rest.len() > 1 && rest.ends_with('.')))
}
