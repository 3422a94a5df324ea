//! The credential that a command presents.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::super::input::Input;
use super::super::{InputError, escape_controls, read_secret};
use super::{AdminApiError, PASSWORD_FILE_VARIABLE, ServerArgs, TOKEN_FILE_VARIABLE, USER_VARIABLE};
use crate::secret::Secret;

/// The path of the terminal of this process.
const TERMINAL: &str = "/dev/tty";

/// The maximum number of typed bytes.
const MAX_TYPED_BYTES: usize = 4096;

/// Why the file of a variable does not count.
const OF_ANOTHER: &str =
    ". That variable is set, but for the user in ENVOY_AUTH_TOKENS_USER, who is another one";

/// Where the credential comes from.  Each part is named with the argument or the variable that says so.
#[derive(Debug, PartialEq, Eq)]
enum CredentialSource {
    Token(Named<PathBuf>),
    /// Without a file the terminal asks for the password.
    Password {
        user: Named<String>,
        file: Option<Named<PathBuf>>,
    },
}

/// A value, and the argument or the variable that it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named<T> {
    value: T,
    by: &'static str,
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |path: &Path| escape_controls(&Input::from_argument(path).to_string());
        match self {
            Self::Token(Named { value, by }) => write!(formatter, "the token from {} ({by})", place(value)),
            Self::Password { user, file } => {
                write!(
                    formatter,
                    "the user {} ({}) with the password ",
                    escape_controls(&user.value),
                    user.by
                )?;
                match file {
                    Some(Named { value, by }) => write!(formatter, "from {} ({by})", place(value)),
                    None => formatter.write_str("typed at the terminal"),
                }
            }
        }
    }
}

impl CredentialSource {
    /// What the arguments say goes before what the variables say.  A password of a variable is that of the user of a
    /// variable, where there is one, and of nobody else.
    fn new(
        arguments: &ServerArgs,
        variable: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, AdminApiError> {
        let file_argument = || {
            let path = arguments.password_file.clone();
            path.map(|value| Named { value, by: "--password-file" })
        };
        let file_variable = || {
            let path = variable(PASSWORD_FILE_VARIABLE).map(PathBuf::from);
            path.map(|value| Named { value, by: PASSWORD_FILE_VARIABLE })
        };
        if let Some(path) = &arguments.token_file {
            return Ok(Self::Token(Named { value: path.clone(), by: "--token-file" }));
        }
        let user = variable(USER_VARIABLE);
        if let Some(name) = &arguments.user {
            let is_of_another = user.as_ref().is_some_and(|user| user != name.as_str());
            let file = file_argument().or_else(|| file_variable().filter(|_| !is_of_another));
            return Ok(Self::Password { user: Named { value: name.clone(), by: "--user" }, file });
        }
        match (variable(TOKEN_FILE_VARIABLE), user) {
            (Some(_), Some(_)) => Err(AdminApiError::TwoCredentials),
            (Some(_), None) if arguments.password_file.is_some() => Err(AdminApiError::PasswordWithoutUser),
            (Some(path), None) => {
                Ok(Self::Token(Named { value: PathBuf::from(path), by: TOKEN_FILE_VARIABLE }))
            }
            (None, Some(user)) => {
                let value = user.into_string().map_err(|_| AdminApiError::UserVariable)?;
                let user = Named { value, by: USER_VARIABLE };
                Ok(Self::Password { user, file: file_argument().or_else(file_variable) })
            }
            (None, None) if arguments.password_file.is_some() => Err(AdminApiError::PasswordWithoutUser),
            (None, None) => Err(AdminApiError::NoCredential),
        }
    }
}

/// The credential that the command presents.
pub(super) struct PresentedCredential {
    /// The value of the header.
    pub authorization: HeaderValue,
    /// Which credential it is, for people, without a secret.
    pub description: String,
}

/// Reads the credential.
pub(super) fn read(arguments: &ServerArgs) -> Result<PresentedCredential, AdminApiError> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let source = CredentialSource::new(arguments, variable)?;
    let value = match &source {
        CredentialSource::Token(path) => {
            Secret::new(format!("Bearer {}", read_secret("token", &path.value)?.expose()))
        }
        CredentialSource::Password { user: Named { value: user, .. }, file } => {
            let password = match file {
                Some(file) => read_secret("password", &file.value)?,
                None => {
                    let asked = ask("password", &format!("Password of {}: ", escape_controls(user)))?;
                    // A variable that names a file was passed over.
                    let hint = variable(PASSWORD_FILE_VARIABLE).map_or("", |_| OF_ANOTHER);
                    asked.ok_or_else(|| AdminApiError::NoPassword { user: escape_controls(user), hint })?
                }
            };
            let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
            Secret::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
        }
    };
    let mut authorization =
        HeaderValue::from_str(value.expose()).map_err(AdminApiError::CredentialCharacters)?;
    authorization.set_sensitive(true);
    Ok(PresentedCredential { authorization, description: source.to_string() })
}

/// Reads a secret from standard input, or asks for it where that is a terminal.
///
/// # Errors
/// [`InputError`]: it cannot be read, or is empty, too large, or not UTF-8.
pub(in crate::cli) fn read_secret_or_ask(what: &'static str, prompt: &str) -> Result<Secret, InputError> {
    if io::stdin().is_terminal()
        && let Some(secret) = ask(what, prompt)?
    {
        return Ok(secret);
    }
    read_secret(what, Path::new("-"))
}

/// Asks for a secret at the terminal, which does not show it; `None` without a terminal.
fn ask(what: &'static str, prompt: &str) -> Result<Option<Secret>, InputError> {
    // A process without a terminal at any of its ends runs by itself, even if it was started from one.
    if !(io::stdin().is_terminal() || io::stderr().is_terminal()) {
        return Ok(None);
    }
    let Ok(terminal) = File::options().read(true).write(true).open(TERMINAL) else { return Ok(None) };
    let from = Input::File(PathBuf::from(TERMINAL));
    let failed = |source| InputError::Unreadable { what, from: from.clone(), source };
    let hidden = HiddenInput::begin(terminal).map_err(failed)?;
    let typed = hidden.read_line(prompt).map_err(failed)?;
    drop(hidden);
    let text = std::str::from_utf8(&typed);
    match text {
        Err(source) => Err(InputError::NotUtf8 { what, from, source }),
        Ok("") => Err(InputError::Empty { what, from }),
        Ok(text) => Ok(Some(Secret::new(text.to_owned()))),
    }
}

/// A terminal that shows nothing of what is typed, until this is dropped.
///
/// Bytes come one by one and signals do not: Ctrl-C is read here, so that the terminal is never left as it is now.
struct HiddenInput {
    terminal: File,
    before: Termios,
}

impl HiddenInput {
    fn begin(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
        hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
        Ok(Self { terminal, before })
    }

    fn read_line(&self, prompt: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut terminal = &self.terminal;
        terminal.write_all(prompt.as_bytes())?;
        let mut line = TypedLine::new();
        let mut byte = [0];
        let read = loop {
            match terminal.read(&mut byte) {
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => match line.take(byte[0]) {
                    Ok(Typed::More) => {}
                    Ok(Typed::Whole) => break Ok(()),
                    Err(error) => break Err(error),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        // The end of the line was not shown either.
        terminal.write_all(b"\n")?;
        read.map(|()| line.0)
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        // Where it fails, the terminal has gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// The text typed so far.
struct TypedLine(Zeroizing<Vec<u8>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Typed {
    More,
    Whole,
}

impl TypedLine {
    fn new() -> Self {
        // Never moved: what was moved would stay in memory.
        Self(Zeroizing::new(Vec::with_capacity(MAX_TYPED_BYTES)))
    }

    fn take(&mut self, byte: u8) -> io::Result<Typed> {
        const CTRL_C: u8 = 3;
        const CTRL_D: u8 = 4;
        const BACKSPACE: u8 = 8;
        const CTRL_U: u8 = 21;
        const DELETE: u8 = 127;
        let line = &mut self.0;
        match byte {
            b'\n' | b'\r' => return Ok(Typed::Whole),
            CTRL_C => return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted")),
            CTRL_D => return Ok(Typed::Whole),
            CTRL_U => line.clear(),
            BACKSPACE | DELETE => {
                // The bytes of one character.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            _ if line.len() == MAX_TYPED_BYTES => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
            }
            byte => line.push(byte),
        }
        Ok(Typed::More)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut line = TypedLine::new();
        for byte in bytes {
            match line.take(*byte) {
                Ok(Typed::Whole) => return Ok(line.0.to_vec()),
                Ok(Typed::More) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("no end".to_owned())
    }

    #[test]
    fn what_is_typed_can_be_mended_and_given_up() {
        assert_eq!(typed(b"abc\r").unwrap(), b"abc");
        assert_eq!(typed(b"abx\x7fc\n").unwrap(), b"abc");
        assert_eq!(typed("aé\x08b\n".as_bytes()).unwrap(), b"ab");
        assert_eq!(typed(b"\x7f\x7fa\n").unwrap(), b"a");
        assert_eq!(typed(b"wrong\x15right\n").unwrap(), b"right");
        assert_eq!(typed(b"abc\x04").unwrap(), b"abc");
        assert_eq!(typed(b"abc\x03"), Err("interrupted".to_owned()));
        assert_eq!(typed(&[b'a'; MAX_TYPED_BYTES + 1]), Err("it is too long".to_owned()));
    }

    #[test]
    fn arguments_go_before_variables() {
        let arguments = |token: Option<&str>, user: Option<&str>, password: Option<&str>| ServerArgs {
            url: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            token_file: token.map(PathBuf::from),
            user: user.map(str::to_owned),
            password_file: password.map(PathBuf::from),
            json: false,
        };
        let source = |arguments: &ServerArgs, variables: &[(&str, &str)]| {
            let find = |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            let source = CredentialSource::new(arguments, find).map_err(|error| error.to_string());
            source.map(|source| source.to_string())
        };
        let (token, user, file) = (TOKEN_FILE_VARIABLE, USER_VARIABLE, PASSWORD_FILE_VARIABLE);
        let none = arguments(None, None, None);
        let by_token = arguments(Some("a"), None, None);
        let by_user = arguments(None, Some("a"), None);
        let by_file = arguments(None, None, Some("-"));
        for (arguments, variables, expected) in [
            (&none, &[(token, "t")][..], format!("the token from t ({token})")),
            (
                &none,
                &[(user, "u"), (file, "f")],
                format!("the user u ({user}) with the password from f ({file})"),
            ),
            (&none, &[(user, "u")], format!("the user u ({user}) with the password typed at the terminal")),
            (&by_token, &[(token, "t"), (user, "u")], "the token from a (--token-file)".to_owned()),
            // The password of a variable is that of the variable's user.
            (
                &by_user,
                &[(token, "t"), (user, "u"), (file, "f")],
                "the user a (--user) with the password typed at the terminal".to_owned(),
            ),
            (
                &by_user,
                &[(user, "a"), (file, "f")],
                format!("the user a (--user) with the password from f ({file})"),
            ),
            (
                &by_user,
                &[(token, "t"), (file, "f")],
                format!("the user a (--user) with the password from f ({file})"),
            ),
            (
                &by_file,
                &[(user, "u"), (file, "f")],
                format!("the user u ({user}) with the password from standard input (--password-file)"),
            ),
        ] {
            assert_eq!(source(arguments, variables), Ok(expected));
        }
        for (arguments, variables, part) in [
            (&none, &[(token, "t"), (user, "u")][..], "both"),
            (&none, &[(file, "f")], "--token-file"),
            (&by_file, &[(token, "t")], "--user"),
            (&by_file, &[], "--user"),
        ] {
            let error = source(arguments, variables).expect_err("no credential");
            assert!(error.contains(part), "{error}");
        }
    }
}
