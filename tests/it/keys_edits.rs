//! Whose keys are, what is changed of them, and the audit, in both stores.

use envoy_auth_tokens::keys::audit::{Action, AuditFilter, NewAuditRow};
use envoy_auth_tokens::keys::store::{
    AccountFilter, AccountRef, BulkRevocation, ChangeError, KeyFilter, KeyOrder, NewKey, OwnerKind, SortKey,
    StoreUrl,
};
use envoy_auth_tokens::keys::{
    Account, Author, CreateAccount, CreateKey, EditAccount, EditKey, ExceedsGrant, Key, KeyOwner, Keys,
    Privileges, Role,
};
use envoy_auth_tokens::person::{PersonId, PersonSource};
use envoy_auth_tokens::secret::Secret;
use envoy_auth_tokens::token::PlainToken;
use serde_json::{Map, json};

use crate::harness::postgres::Postgres;
use crate::keys_store::{
    Database, Replica, START, Time, anything, ask, at, author, becomes, configured, digest, on_both_stores,
    settings, soon,
};

on_both_stores! {
    an_account_is_one_actor_with_many_keys
    an_account_that_is_disabled_or_deleted_takes_its_keys_along
    the_name_of_an_account_that_is_gone_is_not_given_again
    names_are_unique_for_each_owner
    a_key_is_changed_and_the_audit_says_how
    what_a_change_gives_is_checked_where_it_is_made
    keys_are_revoked_together_or_not_at_all
    keys_are_imported_together_or_not_at_all
    lists_are_filtered_and_sorted
    programs_of_older_schemas_answer_until_there_is_something_that_they_do_not_know
    the_audit_is_read_in_pages_and_forgets_what_is_old
}

fn account(name: &str) -> CreateAccount {
    CreateAccount {
        name: name.to_owned(),
        description: None,
        role: Role::Editor,
        actor: Map::new(),
        policies: None,
        is_disabled: false,
    }
}

async fn make_account(keys: &Keys, name: &str) -> Account {
    keys.create_account(&account(name), &author("admin"), &anything).await.unwrap()
}

fn of_account(name: &str, account: &Account) -> CreateKey {
    CreateKey { owner: KeyOwner::Account(account.id), role: None, ..ask(name) }
}

fn of_person(name: &str, person: &PersonId) -> CreateKey {
    CreateKey { owner: KeyOwner::Person(person.clone()), role: None, ..ask(name) }
}

async fn make(keys: &Keys, new: CreateKey) -> (Key, Secret) {
    keys.create(&settings(), new, &author("admin"), &anything).await.unwrap()
}

/// The rows of the audit, the oldest first: what was done, and to which key or account.
async fn audit(keys: &Keys) -> Vec<(String, Option<String>)> {
    let page = keys.audit_rows(&AuditFilter::default(), 0, 1000).await.unwrap();
    assert_eq!(page.total, page.rows.len() as u64);
    let rows = page.rows.into_iter().rev();
    rows.map(|row| (row.row.action, row.row.key_name.or(row.row.account_name))).collect()
}

async fn an_account_is_one_actor_with_many_keys(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let new = CreateAccount {
        actor: json!({"team": "ops", "key": "forged"}).as_object().unwrap().clone(),
        policies: Some(vec!["read".to_owned()]),
        ..account("deploy")
    };
    let deploy = here.keys.create_account(&new, &author("admin"), &anything).await.unwrap();
    let (one, first) = make(&here.keys, of_account("one", &deploy)).await;
    let (two, second) = make(&here.keys, of_account("two", &deploy)).await;
    assert_eq!((one.role, &one.owner), (None, &KeyOwner::Account(deploy.id)));
    for (secret, key) in [(&first, &one), (&second, &two)] {
        becomes(&there, secret, "live").await;
        for replica in [&here, &there] {
            let principal = replica.principal(secret);
            let expected = json!({
                "id": "sa:deploy", "name": "deploy", "role": "Editor", "key": key.name, "key_id": key.id, "team": "ops",
            });
            assert_eq!(json!(principal.actor.members()), expected);
            assert!(principal.counts_under("read") && !principal.counts_under("write"));
            assert_eq!(principal.account.as_deref(), Some("deploy"));
        }
    }
    // A change of the account is a change of each of its keys.
    let stronger = EditAccount {
        name: Some("release".to_owned()),
        role: Some(Role::Admin),
        policies: Some(None),
        actor: Some(Map::new()),
        ..EditAccount::default()
    };
    here.keys.edit_account(deploy.id, &stronger, &author("admin"), &anything).await.unwrap();
    let is_changed = |replica: &Replica, secret: &Secret| {
        let principal = replica.principal(secret);
        principal.actor.member("id") == Some(&json!("sa:release")) && principal.counts_under("write")
    };
    assert!(is_changed(&here, &first) && is_changed(&here, &second));
    soon("the change arrives", async || is_changed(&there, &first) && is_changed(&there, &second)).await;
    // A process that starts knows the same.
    assert!(is_changed(&db.open(&time).await, &first));
}

async fn an_account_that_is_disabled_or_deleted_takes_its_keys_along(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let deploy = make_account(&here.keys, "deploy").await;
    let (key, secret) = make(&here.keys, of_account("one", &deploy)).await;
    let (_, other) = make(&here.keys, of_account("two", &deploy)).await;
    becomes(&there, &secret, "live").await;
    becomes(&there, &other, "live").await;
    let set = async |is_disabled: bool| {
        let edit = EditAccount { is_disabled: Some(is_disabled), ..EditAccount::default() };
        here.keys.edit_account(deploy.id, &edit, &author("admin"), &anything).await.unwrap();
    };
    for (is_disabled, expected) in [(true, "disabled"), (false, "live")] {
        set(is_disabled).await;
        assert_eq!((here.find(&secret), here.find(&other)), (expected, expected));
        becomes(&there, &secret, expected).await;
    }
    // One key alone.
    let edit = EditKey { is_disabled: Some(true), ..EditKey::default() };
    here.keys.edit(key.id, &edit, &author("admin"), &anything).await.unwrap();
    assert_eq!((here.find(&secret), here.find(&other)), ("disabled", "live"));
    becomes(&there, &secret, "disabled").await;
    let rotated = here.keys.rotate(&settings(), key.id, 0, &author("admin"), &anything).await;
    assert!(matches!(rotated, Err(ChangeError::Disabled)), "{rotated:?}");

    let (deleted, keys) = here.keys.delete_account(deploy.id, &author("admin"), &anything).await.unwrap();
    assert_eq!((deleted.name.as_str(), keys), ("deploy", 2));
    assert_eq!((here.find(&secret), here.find(&other)), ("unknown", "unknown"));
    becomes(&there, &other, "unknown").await;
    assert_eq!(db.number("SELECT count(*) FROM api_keys").await, 0);
    let again = here.keys.delete_account(deploy.id, &author("admin"), &anything).await;
    assert!(matches!(again, Err(ChangeError::AccountNotFound)));
    let late = here.keys.create(&settings(), of_account("three", &deploy), &author("admin"), &anything).await;
    assert!(matches!(late, Err(ChangeError::AccountNotFound)));
}

async fn the_name_of_an_account_that_is_gone_is_not_given_again(db: Database) {
    let replica = db.open(&Time::new()).await;
    let create = async |name: &str| {
        let created = replica.keys.create_account(&account(name), &author("admin"), &anything).await;
        created.map(|account| account.id).map_err(|error| error.to_string())
    };
    let deploy = create("deploy").await.unwrap();
    assert_eq!(create("Deploy").await.unwrap_err(), ChangeError::AccountNameTaken.to_string());
    let renamed = EditAccount { name: Some("release".to_owned()), ..EditAccount::default() };
    replica.keys.edit_account(deploy, &renamed, &author("admin"), &anything).await.unwrap();
    assert_eq!(create("deploy").await.unwrap_err(), ChangeError::AccountNameWasUsed.to_string());
    replica.keys.delete_account(deploy, &author("admin"), &anything).await.unwrap();
    for name in ["release", "RELEASE", "deploy"] {
        assert_eq!(create(name).await.unwrap_err(), ChangeError::AccountNameWasUsed.to_string(), "{name}");
    }
    create("another").await.unwrap();
}

async fn names_are_unique_for_each_owner(db: Database) {
    let replica = db.open(&Time::new()).await;
    let keys = &replica.keys;
    let (one, two) = (make_account(keys, "one").await, make_account(keys, "two").await);
    let ann = configured("ann");
    let ann_of_ldap = PersonId { source: PersonSource::Ldap, subject: "ann".into() };
    let owners = [
        ask("ci"),
        of_account("ci", &one),
        of_account("ci", &two),
        of_person("ci", &ann),
        of_person("ci", &ann_of_ldap),
    ];
    for new in &owners {
        make(keys, new.clone()).await;
    }
    for new in owners {
        let again = CreateKey { name: "CI".to_owned(), ..new };
        let again = keys.create(&settings(), again, &author("admin"), &anything).await;
        assert!(matches!(again, Err(ChangeError::NameTaken)), "{again:?}");
    }
    // A person has at most fifty live keys.
    for number in 1..50 {
        make(keys, of_person(&format!("key-{number}"), &ann)).await;
    }
    let one_more = keys.create(&settings(), of_person("more", &ann), &author("ann"), &anything).await;
    assert!(matches!(one_more, Err(ChangeError::PersonQuotaReached)), "{one_more:?}");
    make(keys, of_person("more", &ann_of_ldap)).await;
}

async fn a_key_is_changed_and_the_audit_says_how(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let keys = &replica.keys;
    let (key, secret) = make(keys, ask("ci")).await;
    let edit = EditKey {
        name: Some("build".to_owned()),
        description: Some(Some("the nightly build".to_owned())),
        role: Some(Some(Role::Viewer)),
        policies: Some(Some(vec!["read".to_owned()])),
        actor: Some(json!({"team": "qa"}).as_object().unwrap().clone()),
        expires_at: Some(Some(at(START + 100))),
        is_disabled: Some(true),
    };
    let changed = keys.edit(key.id, &edit, &author("zoë\0"), &anything).await.unwrap();
    let after = changed.after.unwrap();
    assert_eq!(changed.before.as_ref(), Some(&key));
    assert_eq!(keys.get(key.id).await.unwrap().as_ref(), Some(&after));
    assert_eq!(replica.find(&secret), "disabled");
    let enable = EditKey { is_disabled: Some(false), ..EditKey::default() };
    keys.edit(key.id, &enable, &author("zoë"), &anything).await.unwrap();
    let principal = replica.principal(&secret);
    let expected =
        json!({"id": "key:build", "name": "build", "role": "Viewer", "key_id": key.id, "team": "qa"});
    assert_eq!(json!(principal.actor.members()), expected);

    // Dead, it is described and nothing else.
    time.pass(100);
    let dead = keys.edit(key.id, &enable, &author("zoë"), &anything).await;
    assert!(matches!(dead, Err(ChangeError::Edit(_))), "{dead:?}");
    let describe = EditKey { description: Some(None), ..EditKey::default() };
    keys.edit(key.id, &describe, &author("zoë"), &anything).await.unwrap();

    let filter = AuditFilter { key_id: Some(key.id), ..AuditFilter::default() };
    let rows = keys.audit_rows(&filter, 0, 10).await.unwrap().rows;
    let actions: Vec<&str> = rows.iter().rev().map(|row| row.row.action.as_str()).collect();
    assert_eq!(actions, ["API key created", "API key changed", "API key changed", "API key changed"]);
    let NewAuditRow { by, address, before, after, at: when, .. } = &rows[2].row;
    assert_eq!(
        (by.as_deref(), address.as_deref(), *when),
        (Some("zoë\u{fffd}"), Some("127.0.0.1"), at(START))
    );
    assert_eq!(before.as_ref().unwrap(), &json!({"name": "ci", "role": "Editor"}));
    let expected = json!({
        "name": "build", "role": "Viewer", "description": "the nightly build", "actor": {"team": "qa"},
        "policies": ["read"], "expires": at(START + 100).to_string(), "disabled": at(START).to_string(),
    });
    assert_eq!(after.as_ref().unwrap(), &expected);
    // No secret stands there.
    let text = format!("{rows:?}");
    assert!(!text.contains(secret.expose()) && !text.contains(&digest(&secret).to_hex()), "{text}");
}

async fn what_a_change_gives_is_checked_where_it_is_made(db: Database) {
    let replica = db.open(&Time::new()).await;
    let keys = &replica.keys;
    let deploy = make_account(keys, "deploy").await;
    let (key, secret) = make(keys, of_account("one", &deploy)).await;
    let (own, _) = make(keys, ask("own")).await;
    let (theirs, _) = make(keys, of_person("theirs", &configured("ann"))).await;
    let revision = db.number("SELECT value FROM api_revision").await;
    let rows = db.number("SELECT count(*) FROM api_audit").await;
    // What the check is told is what the key can do: with an account, what the account can.
    let refuse = |privileges: &Privileges<'_>| {
        let is_account = privileges.account_name == Some("deploy");
        assert_eq!(
            privileges.role,
            if privileges.owner.person().is_some() { None } else { Some(Role::Editor) }
        );
        assert_eq!(is_account, privileges.owner.account().is_some());
        Err(ExceedsGrant::Role)
    };
    let by = author("somebody");
    for id in [key.id, own.id, theirs.id] {
        let enable = EditKey { is_disabled: Some(false), ..EditKey::default() };
        assert!(matches!(keys.edit(id, &enable, &by, &refuse).await, Err(ChangeError::ExceedsGrant(_))));
        let rotated = keys.rotate(&settings(), id, 0, &by, &refuse).await;
        assert!(matches!(rotated, Err(ChangeError::ExceedsGrant(_))));
        assert!(matches!(keys.revoke(id, &by, &refuse).await, Err(ChangeError::ExceedsGrant(_))));
        assert!(matches!(keys.delete(id, &by, &refuse).await, Err(ChangeError::ExceedsGrant(_))));
    }
    let created = keys.create(&settings(), of_account("two", &deploy), &by, &refuse).await;
    assert!(matches!(created, Err(ChangeError::ExceedsGrant(_))));
    let edit = EditAccount { is_disabled: Some(true), ..EditAccount::default() };
    assert!(matches!(
        keys.edit_account(deploy.id, &edit, &by, &refuse).await,
        Err(ChangeError::ExceedsGrant(_))
    ));
    assert!(matches!(keys.delete_account(deploy.id, &by, &refuse).await, Err(ChangeError::ExceedsGrant(_))));
    // What was refused has left nothing behind.
    assert_eq!(replica.find(&secret), "live");
    assert_eq!(db.number("SELECT value FROM api_revision").await, revision);
    assert_eq!(db.number("SELECT count(*) FROM api_audit").await, rows);

    // Who sees only their own finds no other.
    let ann = Author { sees_only: Some(configured("ann")), ..author("ann") };
    for id in [key.id, own.id] {
        assert!(matches!(keys.revoke(id, &ann, &anything).await, Err(ChangeError::NotFound)));
        assert!(matches!(keys.delete(id, &ann, &anything).await, Err(ChangeError::NotFound)));
        assert!(matches!(keys.rotate(&settings(), id, 0, &ann, &anything).await, Err(ChangeError::NotFound)));
        assert!(matches!(
            keys.edit(id, &EditKey::default(), &ann, &anything).await,
            Err(ChangeError::NotFound)
        ));
    }
    keys.revoke(theirs.id, &ann, &anything).await.unwrap();
}

async fn keys_are_revoked_together_or_not_at_all(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let keys = &here.keys;
    let deploy = make_account(keys, "deploy").await;
    let mut secrets = Vec::new();
    for number in 0..3 {
        secrets.push(make(keys, ask(&format!("CI_{number}"))).await.1);
        secrets.push(make(keys, of_account(&format!("ci_{number}"), &deploy)).await.1);
    }
    let (_, kept) = make(keys, ask("cix0")).await;
    // What is dead already is not killed again.
    let (expired, _) = make(keys, CreateKey { expires_at: Some(at(START + 5)), ..ask("ci_expired") }).await;
    time.pass(5);
    let filter = KeyFilter { name_pattern: Some("ci_*".to_owned()), ..KeyFilter::default() };
    let dry = BulkRevocation { filter: filter.clone(), is_dry_run: true };
    let by = author("admin");
    let shown = keys.revoke_many(&dry, &by, &anything).await.unwrap();
    let names: Vec<&str> = shown.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["CI_0", "ci_0", "CI_1", "ci_1", "CI_2", "ci_2"]);
    let wanted = BulkRevocation { filter, is_dry_run: false };
    let refuse_last = |privileges: &Privileges<'_>| match privileges.key_name {
        Some("ci_2") => Err(ExceedsGrant::Role),
        Some(_) | None => Ok(()),
    };
    let refused = keys.revoke_many(&wanted, &by, &refuse_last).await;
    assert!(matches!(refused, Err(ChangeError::ExceedsGrant(_))), "{refused:?}");
    assert!(secrets.iter().all(|secret| here.find(secret) == "live"));

    let revoked = keys.revoke_many(&wanted, &by, &anything).await.unwrap();
    assert!(revoked.iter().all(|key| key.revoked_by.as_deref() == Some("admin")));
    for secret in &secrets {
        assert_eq!(here.find(secret), "revoked");
        becomes(&there, secret, "revoked").await;
    }
    assert_eq!((revoked.len(), here.find(&kept)), (6, "live"));
    assert_eq!(keys.get(expired.id).await.unwrap().unwrap().revoked_at, None);
    assert_eq!(keys.revoke_many(&wanted, &by, &anything).await.unwrap(), []);
    let rows = audit(keys).await;
    assert_eq!(rows.iter().filter(|(action, _)| action == Action::KEY_REVOKED.0).count(), 6);
}

async fn keys_are_imported_together_or_not_at_all(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let keys = &replica.keys;
    let deploy = make_account(keys, "deploy").await;
    let secret = |name: &str| Secret::new(format!("imported-{name}-0123456789"));
    let new = |request: CreateKey| NewKey {
        digest: PlainToken::new(secret(&request.name).expose().as_bytes()).unwrap().digest(),
        request,
        created_at: at(START - 100),
        created_by: "elsewhere".to_owned(),
        disabled_at: None,
        imported_at: Some(at(START)),
    };
    let good = [new(ask("a")), new(of_account("b", &deploy)), new(of_person("c", &configured("ann")))];
    let (_, known) = make(keys, ask("known")).await;
    let by = author("admin");
    for (bad, expected) in [
        (NewKey { digest: digest(&known), ..new(ask("d")) }, ChangeError::KnownDigest),
        (NewKey { request: ask("A"), ..new(ask("d")) }, ChangeError::NameTaken),
        (new(CreateKey { owner: KeyOwner::Account(99), ..ask("d") }), ChangeError::AccountNotFound),
    ] {
        let lines = [&good[..], &[bad]].concat();
        let error = keys.import(&settings(), &lines, &by).await.unwrap_err();
        assert_eq!((error.index, error.error.to_string()), (Some(3), expected.to_string()));
        assert_eq!(replica.find(&secret("a")), "unknown");
    }
    let imported = keys.import(&settings(), &good, &by).await.unwrap();
    assert_eq!(imported.len(), 3);
    assert_eq!((imported[0].created_by.as_str(), imported[0].created_at), ("elsewhere", at(START - 100)));
    assert_eq!(["a", "b", "c"].map(|name| replica.find(&secret(name))), ["live", "live", "of a person"]);
    let found = keys.find_secret(&digest(&secret("b"))).await.unwrap().unwrap();
    assert_eq!((found.key.name.as_str(), found.is_replaced), ("b", false));
    assert_eq!(keys.find_secret(&digest(&secret("z"))).await.unwrap(), None);
    // A secret that was replaced is found, and known.
    keys.rotate(&settings(), imported[0].id, 60, &by, &anything).await.unwrap();
    let found = keys.find_secret(&digest(&secret("a"))).await.unwrap().unwrap();
    assert!(found.is_replaced);
    let error = keys.import(&settings(), &[NewKey { request: ask("again"), ..new(ask("a")) }], &by).await;
    assert!(matches!(error.unwrap_err().error, ChangeError::KnownDigest));
}

async fn lists_are_filtered_and_sorted(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let keys = &replica.keys;
    let deploy = make_account(keys, "Deploy").await;
    let ann = configured("ann");
    let viewer = CreateKey { role: Some(Role::Viewer), expires_at: Some(at(START + 50)), ..ask("viewer%") };
    let (viewer, viewer_secret) = make(keys, viewer).await;
    time.pass(10);
    let by_zoe = keys.create(&settings(), of_account("Zeta", &deploy), &author("zoë"), &anything).await;
    let (zeta, _) = by_zoe.unwrap();
    let (mine, _) = make(keys, of_person("mine", &ann)).await;
    let admin = CreateKey { role: Some(Role::Admin), expires_at: Some(at(START + 20)), ..ask("admin") };
    let (admin, _) = make(keys, admin).await;
    keys.record_use(&digest(&viewer_secret), time.now(), || None);
    soon("the use is written", async || keys.get(viewer.id).await.unwrap().unwrap().last_used_at.is_some())
        .await;

    let none = KeyFilter::default;
    let of = |filter: KeyFilter| async move {
        let page = keys.list_page(&filter, KeyOrder::default(), 0, 100).await.unwrap();
        assert_eq!(page.total, page.keys.len() as u64, "{filter:?}");
        page.keys.into_iter().map(|key| key.id).collect::<Vec<i64>>()
    };
    let cases = [
        (none(), vec![zeta.id, admin.id, mine.id, viewer.id]),
        (KeyFilter { query: Some("E".to_owned()), ..none() }, vec![zeta.id, mine.id, viewer.id]),
        (KeyFilter { query: Some("%".to_owned()), ..none() }, vec![viewer.id]),
        (KeyFilter { query: Some("_".to_owned()), ..none() }, vec![]),
        (KeyFilter { name_pattern: Some("*E*".to_owned()), ..none() }, vec![zeta.id, mine.id, viewer.id]),
        (KeyFilter { name_pattern: Some("min".to_owned()), ..none() }, vec![]),
        (KeyFilter { role: Some(Role::Editor), ..none() }, vec![zeta.id]),
        (KeyFilter { role: Some(Role::Admin), ..none() }, vec![admin.id]),
        (KeyFilter { kind: Some(OwnerKind::None), ..none() }, vec![admin.id, viewer.id]),
        (KeyFilter { kind: Some(OwnerKind::Account), ..none() }, vec![zeta.id]),
        (KeyFilter { kind: Some(OwnerKind::Person), ..none() }, vec![mine.id]),
        (KeyFilter { account: Some(AccountRef::Id(deploy.id)), ..none() }, vec![zeta.id]),
        (KeyFilter { account: Some(AccountRef::Name("deploy".to_owned())), ..none() }, vec![zeta.id]),
        (KeyFilter { account: Some(AccountRef::Name("other".to_owned())), ..none() }, vec![]),
        (KeyFilter { owner: Some("ann".to_owned()), ..none() }, vec![mine.id]),
        (KeyFilter { person: Some(ann.clone()), ..none() }, vec![mine.id]),
        (
            KeyFilter { person: Some(PersonId { source: PersonSource::Ldap, ..ann.clone() }), ..none() },
            vec![],
        ),
        (KeyFilter { created_by: Some("zoë".to_owned()), ..none() }, vec![zeta.id]),
        (KeyFilter { created_since: Some(at(START + 10)), ..none() }, vec![zeta.id, admin.id, mine.id]),
        (KeyFilter { expires_by: Some(at(START + 20)), ..none() }, vec![admin.id]),
        (KeyFilter { unused_since: Some(at(START + 9)), ..none() }, vec![]),
        (
            KeyFilter { unused_since: Some(at(START + 10)), ..none() },
            vec![zeta.id, admin.id, mine.id, viewer.id],
        ),
        (
            KeyFilter {
                live_at: Some(at(START + 20)),
                role: Some(Role::Admin),
                query: Some("a".to_owned()),
                ..none()
            },
            vec![],
        ),
    ];
    for (filter, expected) in cases {
        let name = format!("{filter:?}");
        assert_eq!(of(filter).await, expected, "{name}");
    }

    let sorted = async |by: SortKey, is_descending: bool| {
        let page = keys.list_page(&none(), KeyOrder { by, is_descending }, 0, 100).await.unwrap();
        page.keys.into_iter().map(|key| key.id).collect::<Vec<i64>>()
    };
    for (by, expected) in [
        (SortKey::Name, [zeta.id, admin.id, mine.id, viewer.id]),
        (SortKey::Created, [viewer.id, zeta.id, mine.id, admin.id]),
        (SortKey::Expiration, [admin.id, viewer.id, zeta.id, mine.id]),
        (SortKey::LastUsed, [zeta.id, mine.id, admin.id, viewer.id]),
        (SortKey::Role, [viewer.id, zeta.id, mine.id, admin.id]),
    ] {
        assert_eq!(sorted(by, false).await, expected, "{by:?}");
        let reversed: Vec<i64> = expected.into_iter().rev().collect();
        assert_eq!(sorted(by, true).await, reversed, "{by:?}");
    }

    let accounts = async |filter: AccountFilter| {
        let list = keys.list_accounts(&filter, 0, 10).await.unwrap();
        assert_eq!(list.total, list.accounts.len() as u64);
        list.accounts.into_iter().map(|listed| (listed.account.name, listed.live_keys)).collect::<Vec<_>>()
    };
    make_account(keys, "another").await;
    let all = [("Deploy".to_owned(), 1), ("another".to_owned(), 0)];
    assert_eq!(accounts(AccountFilter::default()).await, all);
    assert_eq!(
        accounts(AccountFilter { query: Some("PLO".to_owned()), ..Default::default() }).await,
        all[..1]
    );
    assert_eq!(accounts(AccountFilter { is_disabled: true, ..Default::default() }).await, []);
    assert_eq!(accounts(AccountFilter { has_expired_keys: true, ..Default::default() }).await, []);
}

async fn programs_of_older_schemas_answer_until_there_is_something_that_they_do_not_know(db: Database) {
    let replica = db.open(&Time::new()).await;
    let keys = &replica.keys;
    let oldest_reader = async || db.number("SELECT oldest_reader FROM api_revision").await;
    let (key, _) = make(keys, ask("plain")).await;
    let deploy = make_account(keys, "deploy").await;
    assert_eq!(oldest_reader().await, 2);
    let change = match db {
        Database::Sqlite(_) => "disabled_at = 1",
        Database::Postgres { .. } => "disabled_at = to_timestamp(1)",
    };
    // Also past the program.
    db.sql(&format!("UPDATE api_keys SET {change} WHERE id = {}", key.id)).await;
    assert_eq!(oldest_reader().await, 6);
    for new in [of_account("one", &deploy), of_person("one", &configured("ann"))] {
        db.sql("UPDATE api_revision SET oldest_reader = 2").await;
        make(keys, new).await;
        assert_eq!(oldest_reader().await, 6);
    }
}

async fn the_audit_is_read_in_pages_and_forgets_what_is_old(db: Database) {
    // Nobody follows the store: a follower forgets, too.
    let keys = Keys::open(&db.url(), Time::new().clock()).await.unwrap();
    let revision = db.number("SELECT value FROM api_revision").await;
    let now = jiff::Timestamp::now();
    let row = |number: i64, days: i64| NewAuditRow {
        at: now - jiff::SignedDuration::from_hours(24 * days - 1),
        action: format!("action {number}"),
        by: Some(format!("actor {}", number % 2)),
        ..NewAuditRow::default()
    };
    let rows: Vec<NewAuditRow> = (0..6).map(|number| row(number, 402 - number)).collect();
    keys.write_audit(&rows).await.unwrap();
    assert_eq!(db.number("SELECT value FROM api_revision").await, revision);
    let page = keys.audit_rows(&AuditFilter::default(), 1, 2).await.unwrap();
    let actions: Vec<String> = page.rows.iter().map(|row| row.row.action.clone()).collect();
    assert_eq!((page.total, actions), (6, vec!["action 4".to_owned(), "action 3".to_owned()]));
    let of = async |filter: AuditFilter| keys.audit_rows(&filter, 0, 10).await.unwrap().total;
    assert_eq!(of(AuditFilter { by: Some("actor 1".to_owned()), ..Default::default() }).await, 3);
    assert_eq!(of(AuditFilter { action: Some("action 5".to_owned()), ..Default::default() }).await, 1);
    assert_eq!(of(AuditFilter { from: Some(rows[4].at), ..Default::default() }).await, 2);
    assert_eq!(of(AuditFilter { to: Some(rows[4].at), ..Default::default() }).await, 4);

    let upkeep = db.store().await.for_follower().upkeep.unwrap();
    assert_eq!(upkeep.forget_audit(1).await.unwrap().old, 1);
    assert_eq!(upkeep.forget_audit(10).await.unwrap().old, 1);
    assert_eq!(upkeep.forget_audit(10).await.unwrap().old, 0);
    assert_eq!(of(AuditFilter::default()).await, 4);
}

/// The role of a server may add rows to the audit and read them, and can neither change nor delete one that is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_cannot_change_what_the_audit_says() {
    let server = Postgres::shared();
    let database = server.database();
    let role = format!("server_of_{database}");
    server.psql(
        &database,
        &format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'x'; \
             ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}"
        ),
    );
    Keys::migrate(&StoreUrl::parse(&server.url(&database)).unwrap()).await.unwrap();
    let time = Time::new();
    let db = Database::Postgres { server: std::sync::Arc::clone(&server), database: database.clone() };
    let as_role = format!("postgres://{role}:x@{}/{database}", server.address());
    let url = StoreUrl::parse(&as_role).unwrap();
    let keys = Keys::open(&url, time.clock()).await.unwrap();
    let replica = Replica::of(keys, &time);
    replica.keys.first_read().await;
    make_account(&replica.keys, "deploy").await;
    let (key, _) = make(&replica.keys, ask("ci")).await;
    replica.keys.delete(key.id, &author("admin"), &anything).await.unwrap();
    assert_eq!(replica.keys.audit_rows(&AuditFilter::default(), 0, 10).await.unwrap().total, 3);
    let denied = |sql: &str| {
        let sql = format!(
            "DO $$ BEGIN SET LOCAL ROLE {role}; {sql}; RAISE EXCEPTION 'it was not denied'; \
             EXCEPTION WHEN insufficient_privilege THEN NULL; END $$"
        );
        server.psql(&database, &sql);
    };
    denied("DELETE FROM api_audit");
    denied("UPDATE api_audit SET action = 'x'");
    denied("TRUNCATE api_audit");
    server.psql(&database, &format!("SET ROLE {role}; SELECT api_forget_audit(10)"));
    assert_eq!(db.number("SELECT count(*) FROM api_audit").await, 3);
}
