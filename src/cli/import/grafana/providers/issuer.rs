//! The issuers of providers of OpenID Connect, by the URLs to which they have browsers sent.

use super::Kind;

/// The hosts of Microsoft's log-in, each with its own tenants.
const MICROSOFT: [&str; 3] =
    ["login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"];

/// The endings of Okta's hosts.
const OKTA: [&str; 3] = [".okta.com", ".oktapreview.com", ".okta-emea.com"];

/// The issuer; `None` when it is not known by the URL.
///
/// # Errors
/// Why a provider of a known kind has none.
pub(super) fn of(kind: Kind, auth_url: &str) -> Result<Option<String>, String> {
    let url = auth_url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return Ok(None);
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let origin = format!("{}://{}", scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
    let host = host.to_ascii_lowercase();
    if kind == Kind::GitHub {
        return Ok(None);
    }
    if host == "accounts.google.com" {
        return Ok(Some(origin));
    }
    if kind == Kind::AzureAd || MICROSOFT.contains(&host.as_str()) {
        return of_microsoft(&origin, path).map(Some);
    }
    let path = path.trim_end_matches('/');
    if kind == Kind::Okta || OKTA.iter().any(|ending| host.ends_with(ending)) {
        return Ok(of_okta(path).map(|server| format!("{origin}{server}")));
    }
    if kind == Kind::GitLab || host == "gitlab.com" {
        return Ok(path.strip_suffix("/oauth/authorize").map(|folder| format!("{origin}{folder}")));
    }
    if let Some(realm) = path.strip_suffix("/protocol/openid-connect/auth") {
        return Ok(Some(format!("{origin}{realm}")));
    }
    // Auth0 writes its issuers with a slash at the end.
    Ok((host.ends_with(".auth0.com") && path == "/authorize").then(|| format!("{origin}/")))
}

fn of_microsoft(origin: &str, path: &str) -> Result<String, String> {
    let tenant = path.strip_prefix('/').and_then(|path| path.strip_suffix("/oauth2/v2.0/authorize"));
    let tenant = tenant.ok_or("auth_url: of Microsoft's endpoints those of v2.0 have a counterpart")?;
    let is_id = tenant.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && tenant.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if !is_id {
        return Err("auth_url: the tenant must be named by its id (8-4-4-4-12 hexadecimal digits), as the issuer of its ID \
                    tokens is; for `common` and `organizations` that is another one for each company"
            .to_owned());
    }
    Ok(format!("{origin}/{}/v2.0", tenant.to_ascii_lowercase()))
}

/// What of an issuer of Okta's comes after its host: nothing, or an authorization server.
fn of_okta(path: &str) -> Option<&str> {
    let server = path.strip_suffix("/v1/authorize")?;
    match server.strip_prefix("/oauth2")? {
        "" => Some(""),
        name if name.starts_with('/') && !name[1..].contains('/') => Some(server),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_that_are_known() {
        const TENANT: &str = "https://login.microsoftonline.com/72F988BF-86f1-41af-91ab-2d7cd011db47";
        let v2 = format!("{TENANT}/oauth2/v2.0/authorize");
        for (kind, url, expected) in [
            (
                Kind::Google,
                "https://accounts.google.com/o/oauth2/v2/auth?hd=a",
                Some("https://accounts.google.com"),
            ),
            (Kind::Generic, "https://accounts.google.com/o/oauth2/auth", Some("https://accounts.google.com")),
            (
                Kind::AzureAd,
                &v2,
                Some("https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0"),
            ),
            (Kind::Okta, "https://Corp.okta.com/oauth2/v1/authorize", Some("https://corp.okta.com")),
            (
                Kind::Okta,
                "https://id.corp.com/oauth2/default/v1/authorize",
                Some("https://id.corp.com/oauth2/default"),
            ),
            (Kind::Okta, "https://corp.okta.com/authorize", None),
            (Kind::GitLab, "https://gitlab.com/oauth/authorize", Some("https://gitlab.com")),
            (Kind::GitLab, "https://corp.com/gitlab/oauth/authorize", Some("https://corp.com/gitlab")),
            (
                Kind::Generic,
                "http://localhost:8080/realms/staff/protocol/openid-connect/auth",
                Some("http://localhost:8080/realms/staff"),
            ),
            (Kind::Generic, "https://corp.eu.auth0.com/authorize", Some("https://corp.eu.auth0.com/")),
            (Kind::Generic, "https://id.corp.com/authorize", None),
            (Kind::Generic, "https://evil.example/accounts.google.com", None),
            (Kind::Generic, "not a URL", None),
            (Kind::GitHub, "https://github.com/login/oauth/authorize", None),
        ] {
            assert_eq!(of(kind, url).unwrap().as_deref(), expected, "{url}");
        }
        for url in [
            "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
            "https://login.microsoftonline.com/corp.com/oauth2/v2.0/authorize",
            &format!("{TENANT}/oauth2/authorize"),
        ] {
            assert!(of(Kind::AzureAd, url).is_err() && of(Kind::Generic, url).is_err(), "{url}");
        }
    }
}
