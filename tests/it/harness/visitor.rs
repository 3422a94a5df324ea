//! A browser without a screen and without scripts: it follows redirects, keeps cookies, and fills in forms.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use url::Url;
use url::form_urlencoded::Serializer;

use super::http1::{Answer, Request};

/// Somebody who visits the pages of one server.
pub struct Visitor {
    server: SocketAddr,
    cookies: BTreeMap<String, String>,
}

/// Where a visit ends.
#[derive(Debug)]
pub enum End {
    /// A page of the server, with its address.
    Page(Url, Answer),
    /// An address that is not the server's; nobody went there.
    Elsewhere(Url),
}

impl End {
    /// The page.
    #[track_caller]
    pub fn page(self) -> (Url, Answer) {
        match self {
            Self::Page(url, answer) => (url, answer),
            Self::Elsewhere(url) => panic!("led to {url}, and not to a page"),
        }
    }

    /// The address that is not the server's.
    #[track_caller]
    pub fn elsewhere(self) -> Url {
        match self {
            Self::Elsewhere(url) => url,
            Self::Page(url, answer) => panic!("ended at {url}: {} {}", answer.status, answer.text()),
        }
    }
}

impl Visitor {
    pub fn of(server: SocketAddr) -> Self {
        Self { server, cookies: BTreeMap::new() }
    }

    /// Opens a page of the server that has a form, and sends these fields: the address elsewhere to which that leads.
    #[track_caller]
    pub fn fill_in(server: SocketAddr, url: &str, fields: &[(&str, &str)]) -> Url {
        let mut visitor = Self::of(server);
        let (url, page) = visitor.open(url).page();
        assert!(
            page.status == 200 && page.text().contains("<form"),
            "{url}: {} {}",
            page.status,
            page.text()
        );
        visitor.submit(&url, fields).elsewhere()
    }

    /// Goes there, and wherever that leads.
    pub fn open(&mut self, url: &str) -> End {
        self.follow(Url::parse(url).unwrap_or_else(|error| panic!("{url:?}: {error}")), None)
    }

    /// Sends a form there.
    pub fn submit(&mut self, url: &Url, fields: &[(&str, &str)]) -> End {
        let form = Serializer::new(String::new()).extend_pairs(fields).finish();
        self.follow(url.clone(), Some(form))
    }

    fn follow(&mut self, mut url: Url, mut form: Option<String>) -> End {
        for _ in 0..10 {
            if url.socket_addrs(|| None).ok().as_deref() != Some(&[self.server]) {
                return End::Elsewhere(url);
            }
            let answer = self.send(&url, form.take());
            let location = answer.all("location").first().map(|location| (*location).to_owned());
            match location {
                Some(location) if (300..400).contains(&answer.status) => {
                    url = url.join(&location).unwrap_or_else(|error| panic!("{location:?}: {error}"));
                }
                Some(_) | None => return End::Page(url, answer),
            }
        }
        panic!("ten redirects, and none the last: {url}");
    }

    fn send(&mut self, url: &Url, form: Option<String>) -> Answer {
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let method = if form.is_some() { "POST" } else { "GET" };
        let mut request = Request::new(self.server, method, &target).header("connection", "close");
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        if let Some(form) = form {
            let form = form.into_bytes();
            request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        }
        let answer = request.send();
        for line in answer.all("set-cookie") {
            let pair = line.split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').expect("a cookie");
            // A cookie that is taken away has no value.
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}
