//! What a person sees. Plain pages that make sense without the style sheet, read aloud, and with
//! the keyboard alone: one heading, a label for each field, a problem said before the form it is
//! about, and controls that are real ones.

use std::collections::BTreeMap;

use super::Authorize;
use super::html::{Html, element, label, text, void};
use crate::identity::device::{Standing, Wish};

/// A page with its title.
pub(super) fn page(title: &str, content: impl IntoIterator<Item = Html>) -> Html {
    element(
        "html",
        &[("lang", "en")],
        [
            element(
                "head",
                &[],
                [
                    void("meta", &[("charset", "utf-8")]),
                    label("title", &[], &format!("{title} – Aegis")),
                    void(
                        "meta",
                        &[
                            ("name", "viewport"),
                            ("content", "width=device-width, initial-scale=1"),
                        ],
                    ),
                    void("link", &[("rel", "stylesheet"), ("href", super::STYLE)]),
                ],
            ),
            element(
                "body",
                &[],
                [
                    element("header", &[], [label("p", &[], "Aegis")]),
                    element("main", &[], content),
                    element(
                        "footer",
                        &[],
                        [label(
                            "p",
                            &[],
                            "The bundled server, for tests and demonstrations. It hands out nothing real.",
                        )],
                    ),
                ],
            ),
        ],
    )
}

/// Something that went wrong with the form below it.
fn problem(words: Option<&str>) -> Html {
    match words {
        Some(words) => element(
            "p",
            &[("id", "problem"), ("class", "problem"), ("role", "alert")],
            [label("strong", &[], "Problem: "), text(words)],
        ),
        None => Html::default(),
    }
}

/// Browsers read the title first.
fn titled(title: &str, words: Option<&str>) -> String {
    match words {
        Some(_) => format!("Problem: {title}"),
        None => title.to_owned(),
    }
}

fn form(action: &str, token: &str, content: impl IntoIterator<Item = Html>) -> Html {
    let hidden = hidden("form_token", token);
    element(
        "form",
        &[("method", "post"), ("action", action)],
        [hidden].into_iter().chain(content),
    )
}

fn hidden(name: &str, value: &str) -> Html {
    void(
        "input",
        &[("type", "hidden"), ("name", name), ("value", value)],
    )
}

fn button(class: &str, words: &str) -> Html {
    label("button", &[("type", "submit"), ("class", class)], words)
}

fn choice(decision: &str, class: &str, words: &str) -> Html {
    let attributes = [
        ("type", "submit"),
        ("name", "decision"),
        ("value", decision),
        ("class", class),
    ];
    label("button", &attributes, words)
}

/// Before anything else: who is it?
pub(super) fn sign_in(
    token: &str,
    name: &str,
    user_code: Option<&str>,
    wrong: Option<&str>,
) -> Html {
    let intro = "A program wants to log in on your behalf. Sign in to see what it asks for.";
    let kept = user_code.map_or_else(Html::default, |code| hidden("user_code", code));
    sign_in_form(super::SIGN_IN, token, intro, kept, name, wrong)
}

/// The same for the identity provider. Nothing is asked afterwards: signing in is the consent.
pub(super) fn sign_in_for(
    token: &str,
    to: &Authorize<'_>,
    name: &str,
    wrong: Option<&str>,
) -> Html {
    let intro = format!(
        "The program {} wants to know who you are. Sign in only if you have just asked it to.",
        to.client
    );
    let kept = hidden("query", to.query);
    sign_in_form(to.action, token, &intro, kept, name, wrong)
}

fn sign_in_form(
    action: &'static str,
    token: &str,
    intro: &str,
    kept: Html,
    name: &str,
    wrong: Option<&str>,
) -> Html {
    let title = "Sign in";
    let described = if wrong.is_some() { "problem" } else { "where" };
    let mut name_field = vec![
        ("id", "name"),
        ("name", "name"),
        ("type", "text"),
        ("value", name),
        ("autocomplete", "username"),
        ("autocapitalize", "none"),
        ("spellcheck", "false"),
        ("maxlength", "64"),
        ("required", ""),
    ];
    let mut password_field = vec![
        ("id", "password"),
        ("name", "password"),
        ("type", "password"),
        ("autocomplete", "current-password"),
        ("maxlength", "64"),
        ("required", ""),
        ("aria-describedby", described),
    ];
    if wrong.is_some() {
        name_field.push(("aria-invalid", "true"));
        password_field.push(("aria-invalid", "true"));
    }
    // The first field that is still to fill in.
    if name.is_empty() {
        name_field.push(("autofocus", ""));
    } else {
        password_field.push(("autofocus", ""));
    }
    page(
        &titled(title, wrong),
        [
            label("h1", &[], title),
            label("p", &[], intro),
            problem(wrong),
            form(
                action,
                token,
                [
                    kept,
                    label("label", &[("for", "name")], "Name"),
                    void("input", &name_field),
                    label("label", &[("for", "password")], "Password"),
                    void("input", &password_field),
                    label(
                        "p",
                        &[("id", "where"), ("class", "hint")],
                        "Both are in what the server, or the demonstration, said when it started.",
                    ),
                    button("main", "Sign in"),
                ],
            ),
        ],
    )
}

/// The code, typed or to be compared. A code that came with the address is no more than a
/// suggestion: the person has to say that it is theirs (RFC 8628 §3.3.1, §5.4).
pub(super) fn enter_code(
    token: &str,
    leave: &str,
    code: Option<&str>,
    wrong: Option<&str>,
) -> Html {
    let suggested = code.is_some() && wrong.is_none();
    let (title, hint, words) = if suggested {
        (
            "Compare the code",
            "Go on only if the program on your own device shows this very code. If somebody sent you here, stop.",
            "My device shows this code",
        )
    } else {
        (
            "Enter the code",
            "Eight letters, as the program on your device shows them. Case and the dash do not matter.",
            "Continue",
        )
    };
    let described = if wrong.is_some() {
        "problem hint"
    } else {
        "hint"
    };
    let mut field = vec![
        ("id", "user_code"),
        ("name", "user_code"),
        ("type", "text"),
        ("class", "code"),
        ("value", code.unwrap_or_default()),
        ("autocomplete", "off"),
        ("autocapitalize", "characters"),
        ("spellcheck", "false"),
        ("maxlength", "32"),
        ("required", ""),
        ("aria-describedby", described),
    ];
    if wrong.is_some() {
        field.push(("aria-invalid", "true"));
    }
    if !suggested {
        field.push(("autofocus", ""));
    }
    page(
        &titled(title, wrong),
        [
            label("h1", &[], title),
            problem(wrong),
            form(
                super::CODE,
                token,
                [
                    label("label", &[("for", "user_code")], "Code"),
                    label("p", &[("id", "hint"), ("class", "hint")], hint),
                    void("input", &field),
                    button("main", words),
                ],
            ),
            sign_out(leave),
        ],
    )
}

/// What the person is asked to approve.
pub(super) fn review(token: &str, leave: &str, wish: &Wish, name: &str) -> Html {
    let client = if wish.client_name.trim().is_empty() {
        label("em", &[], "no name")
    } else {
        label("bdi", &[], &wish.client_name)
    };
    page(
        "Approve this login?",
        [
            label("h1", &[], "Approve this login?"),
            label(
                "p",
                &[],
                "Approve only what you have just started yourself, and only if your device shows the same code and asks for no more than this.",
            ),
            element(
                "dl",
                &[],
                [
                    entry("Code", label("span", &[("class", "code")], &wish.user_code)),
                    entry("The program calls itself", client),
                    entry("Tenant", text(&wish.tenant_id)),
                    entry("You are", text(name)),
                    entry("Thumbprint of its key", label("code", &[], &wish.jkt)),
                ],
            ),
            label("h2", &[], "Leases it asks for"),
            scopes(&wish.scopes),
            form(
                super::DECISION,
                token,
                [element(
                    "div",
                    &[("class", "choice")],
                    [
                        choice("approve", "main", "Approve"),
                        choice("deny", "other", "Deny"),
                    ],
                )],
            ),
            sign_out(leave),
        ],
    )
}

fn entry(term: &str, value: Html) -> Html {
    element(
        "div",
        &[],
        [label("dt", &[], term), element("dd", &[], [value])],
    )
}

/// By credential, in the short form that the command line uses; anything else as it came.
fn scopes(scopes: &[String]) -> Html {
    let mut actions: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for scope in scopes {
        let (credential, action) = split(scope).unwrap_or_else(|| (scope.clone(), "everything"));
        actions.entry(credential).or_default().push(action);
    }
    let head = ["Credential", "Actions"].map(|words| label("th", &[("scope", "col")], words));
    let rows = actions.iter().map(|(credential, actions)| {
        let credential = [element("code", &[], breakable(credential))];
        element(
            "tr",
            &[],
            [
                element("th", &[("scope", "row")], credential),
                label("td", &[], &actions.join(", ")),
            ],
        )
    });
    element(
        "table",
        &[],
        [
            element("thead", &[], [element("tr", &[], head)]),
            element("tbody", &[], rows),
        ],
    )
}

/// A credential that a narrow screen breaks between its parts.
fn breakable(credential: &str) -> Vec<Html> {
    let parts = credential.split_inclusive('/');
    let mut pieces: Vec<Html> = parts
        .flat_map(|part| [text(part), void("wbr", &[])])
        .collect();
    // None at the end.
    drop(pieces.pop());
    pieces
}

/// Credential and action of `credential.lease.ACTION:provider:P:app:A:account:C`.
fn split(scope: &str) -> Option<(String, &str)> {
    let (action, selector) = scope.strip_prefix("credential.lease.")?.split_once(':')?;
    let parts: Vec<&str> = selector.split(':').collect();
    match parts.as_slice() {
        ["provider", provider, "app", app, "account", account] => {
            Some((format!("{provider}/{app}/{account}"), action))
        }
        _ => None,
    }
}

/// What came of it.
pub(super) fn result(leave: &str, approve: bool, found: Standing) -> Html {
    let (title, words) = match (found, approve) {
        (Standing::Pending, true) => (
            "Approved",
            "The program is logged in as soon as it asks again. You can close this page.",
        ),
        (Standing::Pending, false) => (
            "Denied",
            "The program gets nothing. You can close this page.",
        ),
        (Standing::Expired, _) => (
            "The code has expired",
            "Nothing was approved. Start the login again on your device; it shows a new code.",
        ),
        (Standing::Decided, _) => (
            "Decided already",
            "Somebody decided this login before, here or elsewhere. Your answer changed nothing.",
        ),
    };
    page(
        title,
        [
            label("h1", &[], title),
            element("p", &[("role", "status")], [text(words)]),
            element(
                "p",
                &[],
                [label("a", &[("href", super::ENTRY)], "Enter another code")],
            ),
            sign_out(leave),
        ],
    )
}

fn sign_out(token: &str) -> Html {
    form(super::SIGN_OUT, token, [button("quiet", "Sign out")])
}

/// A request that is not answered, and where to begin anew.
pub(super) fn refused(title: &str, words: &str) -> Html {
    page(
        title,
        [
            label("h1", &[], title),
            element("p", &[("role", "alert")], [text(words)]),
            element(
                "p",
                &[],
                [label("a", &[("href", super::ENTRY)], "Start again")],
            ),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        let selector = "provider:gcp:app:billing-prod:account:deploy-bot";
        Wish {
            user_code: "BCDF-GHJK".to_owned(),
            tenant_id: "t".to_owned(),
            scopes: vec![
                format!("credential.lease.create:{selector}"),
                "spiffe.bootstrap".to_owned(),
                format!("credential.lease.redeem:{selector}"),
            ],
            ..Wish::default()
        }
    }

    #[test]
    fn scopes_are_listed_by_credential_and_none_is_left_out() {
        let page = review("", "", &wish(), "demo").document();
        let row = |credential: &str, actions: &str| {
            format!("<tr><th scope=\"row\"><code>{credential}</code></th><td>{actions}</td></tr>")
        };
        assert!(page.contains(&row(
            "gcp/<wbr>billing-prod/<wbr>deploy-bot",
            "create, redeem"
        )));
        assert!(page.contains(&row("spiffe.bootstrap", "everything")));
    }

    #[test]
    fn every_page_has_its_language_one_heading_and_no_script() {
        let pages = [
            sign_in("t", "", None, None),
            sign_in("t", "demo", Some("BCDF-GHJK"), Some("wrong")),
            enter_code("t", "l", None, None),
            enter_code("t", "l", Some("BCDF-GHJK"), None),
            enter_code("t", "l", Some("x"), Some("wrong")),
            review("t", "l", &wish(), "demo"),
            result("l", true, Standing::Pending),
            refused("No", "Because."),
        ];
        for page in pages {
            let page = page.document();
            assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"));
            assert_eq!(page.matches("<h1>").count(), 1, "{page}");
            assert_eq!(page.matches("<title>").count(), 1, "{page}");
            for banned in ["<script", "style=", " onclick", "javascript:", "http"] {
                assert!(!page.contains(banned), "{banned} in {page}");
            }
            for field in page.split("<input ").skip(1) {
                let (field, _) = field.split_once('>').unwrap();
                let Some((_, id)) = field.split_once("id=\"") else {
                    assert!(field.starts_with("type=\"hidden\""), "{page}");
                    continue;
                };
                let (id, _) = id.split_once('"').unwrap();
                assert!(page.contains(&format!("<label for=\"{id}\">")), "{page}");
            }
        }
    }

    /// RFC 8628 §3.3.1: a code that came with the address waits for the person's word.
    #[test]
    fn a_suggested_code_is_to_be_compared() {
        let page = enter_code("t", "l", Some("BCDF-GHJK"), None).document();
        assert!(page.contains("Compare the code") && page.contains("value=\"BCDF-GHJK\""));
        assert!(page.contains("My device shows this code"));
    }
}
