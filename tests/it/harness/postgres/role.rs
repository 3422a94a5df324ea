//! Roles other than the owner of the tables.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Postgres;

/// What a role may do in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Log in, and nothing else.
    Login,
    /// SELECT from every table.
    Select,
    /// SELECT, INSERT, UPDATE and DELETE in every table; no DDL.
    Rows,
}

/// A role that may log in.
#[derive(Debug, Clone)]
pub struct Role {
    pub name: String,
    pub password: String,
}

impl Postgres {
    /// A new role with these rights on all tables of the database: those that there are, and those to come.
    pub fn role(&self, database: &str, rights: Rights) -> Role {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let role = Role { name: format!("role_{number}"), password: format!("password-of-role-{number}") };
        let (name, password) = (&role.name, &role.password);
        let mut sql = format!(
            "CREATE ROLE {name} LOGIN PASSWORD '{password}'; \
             REVOKE CREATE ON SCHEMA public FROM PUBLIC; REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC;"
        );
        let (tables, sequences) = match rights {
            Rights::Login => (None, None),
            Rights::Select => (Some("SELECT"), None),
            Rights::Rows => (Some("SELECT, INSERT, UPDATE, DELETE"), Some("USAGE")),
        };
        for (what, on) in [(tables, "TABLES"), (sequences, "SEQUENCES")] {
            if let Some(what) = what {
                sql += &format!("GRANT {what} ON ALL {on} IN SCHEMA public TO {name};");
                sql += &format!("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT {what} ON {on} TO {name};");
            }
        }
        self.psql(database, &sql);
        role
    }

    /// `ALTER ROLE … PASSWORD`.
    pub fn set_password(&self, role: &mut Role, password: &str) {
        self.psql("postgres", &format!("ALTER ROLE {} PASSWORD '{password}'", role.name));
        password.clone_into(&mut role.password);
    }

    /// `ALTER ROLE … CONNECTION LIMIT`; −1 is none.
    pub fn limit_connections(&self, role: &Role, limit: i32) {
        self.psql("postgres", &format!("ALTER ROLE {} CONNECTION LIMIT {limit}", role.name));
    }

    /// The URL by which a role comes to a database at this address: this server's, or of somebody who leads here.
    pub fn url_as(&self, role: &Role, address: impl Display, database: &str) -> String {
        format!("postgres://{}:{}@{address}/{database}", role.name, role.password)
    }
}
