//! Names of every kind are text, and times are the reader's own.

use serde_json::{Value, json};

use super::{DAY, Page};

#[test]
fn names_are_text_whatever_they_look_like_and_no_other_host_is_contacted() {
    let page = Page::logged_in();
    let browser = &page.browser;
    page.issue("decoy", "Viewer", None);
    let names = [
        "<img src=x onerror=\"window.ran = 1\">",
        "<script>window.ran = 1</script>",
        "\"><svg onload=window.ran=1>",
        "'; DROP TABLE keys; --",
        "{{constructor.constructor('window.ran = 1')()}}",
        // Of one script, as names are: angle brackets belong to none.
        "שלום <&> עולם",
        "夜間バッチ <b>処理</b>",
        "🔑🏳️‍🌈",
        "&lt;not an entity&gt; &amp;",
    ];
    for name in names {
        page.add(name, "Viewer", "1d");
        browser.read("#created-title", name);
        page.take_key();
        // Every dialog and message that shows a name.
        page.act(name, "Rotate");
        browser.read("#rotate-title", name);
        browser.click("#rotate-form [data-close]");
        page.act(name, "Details");
        browser.read("#details-title", name);
        browser.click("#details-dialog [data-close]");
        browser.fill("#search", name);
        browser.read("#keys-pager", "1–1 of 1");
        browser.fill("#search", &format!("{name}!"));
        browser.read("#nothing", name);
        browser.fill("#search", "");
        browser.read("#rows", "decoy");
    }
    let mut shown = page.names();
    shown.sort();
    let mut sorted: Vec<&str> = [&["decoy"], &names[..]].concat();
    sorted.sort_unstable();
    assert_eq!(shown, sorted);
    let directions = browser.script(
        "return [...document.querySelectorAll('#rows th .name')]
            .filter((name) => getComputedStyle(name).direction === 'rtl').length",
        json!([]),
    );
    assert_eq!(directions, json!(1), "the Hebrew name reads from right to left");
    page.is_well("names");

    let name = names[0];
    page.act(name, "Revoke");
    browser.read("#confirm-title", name);
    browser.click("#confirm-yes");
    browser.read("#toast", name);
    page.show("audit");
    browser.read("#audit-rows", name);
    assert_eq!(browser.script("return window.ran === undefined", json!([])), json!(true));

    // Not one request went elsewhere, and the policy would not have let it.
    let own = page.url();
    let requests = browser.requests();
    assert!(requests.len() > 10, "{requests:?}");
    for (method, url) in &requests {
        assert!(url.starts_with(&own) || url.starts_with("data:"), "{method} {url}");
        assert!(!url.contains("eat_"), "a key in an address: {url}");
    }
    assert_eq!(page.problems(), Vec::<String>::new());
    let tried = browser.script(
        "const violations = [];
         document.addEventListener('securitypolicyviolation', (event) => violations.push(event.effectiveDirective));
         try { await fetch('http://127.0.0.1:9/'); } catch {}
         const image = new Image();
         image.src = 'http://127.0.0.1:9/i.png';
         const style = document.createElement('style');
         style.textContent = 'body { display: none }';
         document.body.append(style);
         try { document.body.innerHTML = '<b>markup</b>'; } catch { violations.push('innerHTML'); }
         await new Promise((resolve) => setTimeout(resolve, 200));
         return [...new Set(violations)].sort()",
        json!([]),
    );
    let tried: Vec<&str> = tried.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for stopped in ["connect-src", "img-src", "style-src-elem", "innerHTML"] {
        assert!(tried.contains(&stopped), "{stopped} is not stopped: {tried:?}");
    }
}

#[test]
fn names_that_differ_in_blanks_look_different() {
    let page = Page::start();
    let names = ["night watch", "night  watch", "night\u{a0}watch", "night\u{2009}watch"];
    for (number, name) in names.iter().enumerate() {
        // Some of these are one name for the API; each is stored all the same, as a reader may meet it.
        page.issue(&format!("placeholder {number}"), "Viewer", None);
        page.sql(&format!("UPDATE api_keys SET name = '{name}' WHERE name = 'placeholder {number}'"));
    }
    page.enter("admin");
    let browser = &page.browser;
    browser.read("#keys-pager", "1–4 of 4");
    let looks = browser.script(
        "return [...document.querySelectorAll('#rows th .name')].map((name) => {
            const box = name.getBoundingClientRect();
            const mark = name.querySelector('.blanks');
            return `${mark === null ? 'plain' : getComputedStyle(mark).borderBottomStyle} ${Math.round(box.width)}`;
        })",
        json!([]),
    );
    let looks: Vec<&str> =
        looks.as_array().expect("a list").iter().map(|look| look.as_str().expect("text")).collect();
    assert_eq!(looks.iter().filter(|look| look.starts_with("plain")).count(), 1, "{looks:?}");
    assert_eq!(looks.iter().filter(|look| look.starts_with("dotted")).count(), 3, "{looks:?}");
    let mut shown = page.names();
    shown.sort();
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(shown, sorted, "what is copied is the name itself");
    page.is_well("blanks");
}

#[test]
fn times_are_the_readers_own_or_of_the_zone_that_they_choose() {
    let page = Page::start();
    page.issue("ci deploys", "Editor", Some(3 * DAY));
    page.issue("endless", "Viewer", None);
    page.issue("soon gone", "Viewer", Some(1));
    let browser = &page.browser;
    browser.set_time_zone("Asia/Kolkata");
    page.enter("admin");
    let zone = "return document.getElementById('zone').selectedOptions[0].text";
    let zone = browser.script(zone, json!([]));
    assert!(zone.as_str().expect("text").contains("(this browser's)"), "{zone}");
    assert!(zone.as_str().expect("text").starts_with("Asia/"), "{zone}");

    let expiration = page.key("ci deploys")["expiration"].clone();
    let written = |zone: &str| {
        let text = browser.script(
            "return new Date(arguments[0]).toLocaleString('en-US',
                {timeZone: arguments[1], dateStyle: 'medium', timeStyle: 'short'})",
            json!([expiration, zone]),
        );
        text.as_str().expect("text").replace('\u{202f}', " ")
    };
    let cell = || page.cell("ci deploys", "Expires").replace('\u{202f}', " ");
    assert_eq!(cell(), format!("{} in 3 days", written("Asia/Kolkata")));
    assert_eq!(page.cell("endless", "Expires"), "No expiration date");
    assert_eq!(page.cell("endless", "Last used"), "Never");
    // Every time has UTC as its title.
    let titles = browser.script(
        "return [...document.querySelectorAll('#rows time')].filter((time) =>
            time.title !== new Date(time.dateTime).toISOString().slice(0, 19).replace('T', ' ') + ' UTC').length",
        json!([]),
    );
    assert_eq!(titles, json!(0));

    page.choose("#zone", "America/New_York");
    browser.wait(
        "another time",
        "return document.querySelector('#rows').innerText.replaceAll('\\u202f', ' ').includes(arguments[0])",
        json!([written("America/New_York")]),
    );
    // It is remembered, in this browser.
    browser.go(&page.url());
    browser.see("#rows tr");
    assert_eq!(browser.text("#zone"), "America/New_York");
    assert_eq!(cell(), format!("{} in 3 days", written("America/New_York")));
    page.choose("#zone", "UTC");
    browser.wait(
        "UTC",
        "return document.querySelector('#rows').innerText.replaceAll('\\u202f', ' ').includes(arguments[0])",
        json!([written("UTC")]),
    );

    // A key that expires while somebody looks is gone with the next look.
    browser.wait(
        "losing the key whose time is over",
        "document.getElementById('refresh').click();
         return !document.getElementById('rows').innerText.includes('soon gone')",
        json!([]),
    );
    browser.click("#show-expired");
    browser.read("#keys-pager", "1–3 of 3");
    browser.read(&page.row("soon gone"), "Expired");
    assert_eq!(page.problems(), Vec::<String>::new());
}
