//! Tokens that whoever a build is done for fetches itself: its password is asked for only where it fetches none, and no
//! realm of somebody else is named to it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_oci::registry::credentials::{Answer, AskCredentials, FetchedToken, TokenWish};
use rbuild_oci::registry::{Credential, Credentials, Secret};

use super::server::Auth;
use super::*;

/// Who is asked: what it answers to a wish for a token, and what it was asked for.
#[derive(Debug)]
struct Asked {
    token: Result<Option<&'static str>, &'static str>,
    wishes: Mutex<Vec<String>>,
    passwords: AtomicUsize,
}

impl AskCredentials for Asked {
    fn ask<'a>(&'a self, _: &'a str) -> Answer<'a> {
        self.passwords.fetch_add(1, Ordering::Relaxed);
        let credential = Credential::Password { username: "bob".into(), password: Secret::new("pa:ss") };
        Box::pin(async { Ok(Some(credential)) })
    }

    fn fetch_token<'a>(&'a self, wish: TokenWish<'a>) -> Answer<'a, FetchedToken> {
        let text = format!("{} {:?} {}", wish.realm, wish.service, wish.scopes.join(","));
        self.wishes.lock().unwrap().push(text);
        let fetched = |token: &str| FetchedToken { token: Secret::new(token), life: Duration::from_secs(300) };
        Box::pin(async move { self.token.map(|token| token.map(fetched)).map_err(str::to_owned) })
    }
}

/// A registry that wants tokens of a server at `host`, an image that was looked for there, and what came of it.
async fn looked_for(
    host: impl FnOnce(&Registry) -> String,
    token: Result<Option<&'static str>, &'static str>,
) -> (Registry, Registry, Arc<Asked>, Client) {
    let (registry, token_server) = (start(), start());
    Image::new("a").serve(&registry, "app", "1");
    token_server.know_user("bob", "pa:ss");
    let realm = format!("http://{}/token", host(&token_server));
    registry.require(Auth::Bearer { realm, service: "s".into() });
    let asked = Arc::new(Asked { token, wishes: Mutex::default(), passwords: AtomicUsize::new(0) });
    let (client, _) = client(|settings| settings.credentials = Credentials::none().asking(asked.clone()));
    resolve(&client, &name(&registry, "app:1")).await.expect("it may be pulled");
    (registry, token_server, asked, client)
}

#[tokio::test]
async fn a_password_is_asked_for_only_where_no_token_comes() {
    let cases = [(Ok(Some("77.repository:app:pull+push")), 0), (Ok(None), 1), (Err("the network is gone"), 1)];
    for (token, passwords) in cases {
        let (registry, token_server, asked, client) = looked_for(Registry::host, token).await;
        let wish = format!("http://{}/token Some(\"s\") repository:app:pull", token_server.host());
        assert_eq!(*asked.wishes.lock().unwrap(), [wish], "{token:?}");
        assert_eq!(asked.passwords.load(Ordering::Relaxed), passwords, "{token:?}");
        assert_eq!(token_server.count("GET", "/token"), passwords, "{token:?}");
        // It is kept: the next request of the same kind asks nobody.
        resolve(&client, &name(&registry, "app:1")).await.expect("it may be pulled");
        assert_eq!(asked.wishes.lock().unwrap().len(), 1, "{token:?}");
    }
}

#[tokio::test]
async fn a_realm_of_somebody_else_is_not_named() {
    // Another address is another host, even if both are loopback.
    let elsewhere = |server: &Registry| format!("localhost:{}", server.port());
    let (_registry, _token_server, asked, _client) =
        looked_for(elsewhere, Ok(Some("77.repository:app:pull+push"))).await;
    assert_eq!(*asked.wishes.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_token_that_is_refused_is_not_shown_twice_and_the_words_say_where_to_log_in() {
    let (registry, _token_server, asked, client) = looked_for(Registry::host, Ok(Some("77.repository:app:pull"))).await;
    let error = push(&client, &name(&registry, "app:2"), &Image::new("b")).await.expect_err("it may only pull");
    let help = error.help().unwrap_or_default();
    assert!(help.contains("`docker login 127.0.0.1:") && !help.contains("rbuild login"), "{help}");
    assert!(asked.wishes.lock().unwrap().len() <= 3, "{asked:?}");
}
