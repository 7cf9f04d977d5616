//! `anabranch key`: who may use the HTTP API of an app, and what for.
//!
//! A key is drawn here and shown once; the server gets its hash. One that tokens open has no secret:
//! who signs them is declared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anabranch_core::ids::AppId;
use anabranch_ingest::ApiToken;
use anabranch_journal::metadata::MetadataStore;
use anabranch_schemas::resources::{OTHERS, Resource, ResourceId, ResourceName};
use anyhow::{Context, Result};
use clap::Subcommand;
use reqwest::Method;
use reqwest::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::client::{AdminFlags, Client, EXAMPLE_APP};
use crate::failure::{Exit, Failure};
use crate::get::listed;
use crate::key_file;
use crate::output::{Table, print, say};

/// Make, list and revoke keys. Whoever has a key of an app may do with its documents what the key
/// allows, and nothing else.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    /// Show the keys of an app.
    List {
        #[command(flatten)]
        of: AppFlags,
    },
    /// Give a key another secret: from now on the old one opens nothing.
    Rotate {
        /// Its name.
        name: ResourceName,
        /// Keep the new secret in this file, which only you may read, instead of printing it.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        of: AppFlags,
    },
    /// Take a key away: from now on it opens nothing.
    Revoke {
        /// Its name.
        name: ResourceName,
        #[command(flatten)]
        of: AppFlags,
    },
}

/// Make a key and print it. It is shown once: nobody can find it out later. With --issuer it has no
/// secret: JSON Web Tokens open it.
///
/// A RULE is a condition on a document and on the key's claims, which it names like arguments, such
/// as "store = :store". A document may be written if the rule holds of it before and after.
#[derive(Debug, clap::Args)]
struct Create {
    /// Its name within the app, such as 'till-17'.
    name: ResourceName,
    /// It may read and write everything.
    #[arg(long, conflicts_with_all = ["read", "write"])]
    all: bool,
    /// It may read these documents of a collection, all if no rule is given; repeat it for several
    /// collections, '*' is all that are not named.
    #[arg(long, value_name = "COLLECTION[:RULE]")]
    read: Vec<String>,
    /// It may write these documents of a collection.
    #[arg(long, value_name = "COLLECTION[:RULE]")]
    write: Vec<String>,
    /// What rules may ask about its holder; the value is JSON, or else text.
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
    /// When it ends.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Keep the key in this file, which only you may read, instead of printing it. If there is one in
    /// it already, that is used: so several clusters can have the same.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    tokens: TokenFlags,
    #[command(flatten)]
    of: AppFlags,
}

/// Whose tokens open a key.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "For a key that JSON Web Tokens open")]
struct TokenFlags {
    /// Whose tokens they are: their 'iss'.
    #[arg(long, value_name = "TEXT", requires_all = ["audience", "signer"], conflicts_with = "file")]
    issuer: Option<String>,
    /// For whom they have to be: their 'aud'.
    #[arg(long, value_name = "TEXT", requires = "issuer")]
    audience: Option<String>,
    /// The public keys of the issuer: a JWK Set, as it publishes it.
    #[arg(long, value_name = "FILE", requires = "issuer", group = "signer")]
    jwks_file: Option<PathBuf>,
    /// The secret that the issuer signs with, at least 32 bytes. Who has the admin key sees it.
    #[arg(long, value_name = "FILE", requires = "issuer", group = "signer")]
    secret_file: Option<PathBuf>,
}

#[derive(Clone, Debug, clap::Args)]
struct AppFlags {
    /// The app.
    #[arg(long, value_name = "UUID", env = "ANABRANCH_APP", default_value_t = EXAMPLE_APP)]
    app: Uuid,
    #[command(flatten)]
    admin: AdminFlags,
}

impl AppFlags {
    fn client(&self) -> Result<Client> {
        self.admin.client()
    }

    fn path(&self, name: &ResourceName) -> String {
        format!("/api/v1/resources/key/{}/{name}", self.app)
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Create(create) => create.run().await,
        Command::List { of } => list(&of).await,
        Command::Rotate { name, file, of } => rotate(&name, file, &of).await,
        Command::Revoke { name, of } => revoke(&name, &of).await,
    }
}

impl Create {
    async fn run(self) -> Result<()> {
        match self.tokens.credential()? {
            Some(issuer) => self.for_tokens(&issuer).await,
            None => self.with_secret().await,
        }
    }

    async fn with_secret(self) -> Result<()> {
        let token = match &self.file {
            Some(path) => key_file::read_or_make(path, &self.name)?,
            None => ApiToken::draw(self.name.clone()),
        };
        if *token.name() != self.name {
            let message = format!("the key in the file is named '{}'", token.name());
            return Err(Failure::usage(message).into());
        }
        let resource = self.resource("apiKey", &json!({ "hash": token.hash() }))?;
        let (client, path) = (self.of.client()?, self.of.path(&self.name));
        // Made the last time, with what the file has.
        if self.file.is_some() && is_declared(&client, &path, &resource, &token).await {
            return show(&token, true);
        }
        declare(&client, &path, &resource).await?;
        show(&token, self.file.is_some())
    }

    async fn for_tokens(self, issuer: &Value) -> Result<()> {
        let resource = self.resource("jwt", issuer)?;
        declare(&self.of.client()?, &self.of.path(&self.name), &resource).await?;
        print(format_args!("{} made", resource.id()))?;
        let keys = |credential: &Value| credential["jwks"]["keys"].as_array().map_or(0, Vec::len);
        let (given, kept) = (keys(issuer), keys(&resource.to_value()["spec"]["jwt"]));
        if kept < given {
            say(format_args!(
                "{kept} of the {given} keys of the set verify tokens, the others do not"
            ));
        }
        say(format_args!(
            "it lets in who shows a token with 'iss' {}, 'aud' {}, a 'sub' and an 'exp'; send it as \
             'Authorization: Bearer TOKEN'",
            issuer["issuer"], issuer["audience"]
        ));
        Ok(())
    }

    fn resource(&self, credential: &str, opened_by: &Value) -> Result<Resource> {
        let mut spec = json!({
            credential: opened_by,
            "claims": claims(&self.claims)?,
            "permissions": self.permissions()?,
        });
        if let Some(end) = &self.expires_at {
            spec["expiresAt"] = json!(end);
        }
        key(self.of.app, &self.name, &spec)
    }

    fn permissions(&self) -> Result<Value> {
        let mut permissions: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        if self.all {
            let all = [("read", "TRUE"), ("write", "TRUE")];
            let all = all.map(|(deed, rule)| (deed.to_owned(), json!(rule)));
            permissions.insert(OTHERS, all.into_iter().collect());
        }
        for (deed, given) in [("read", &self.read), ("write", &self.write)] {
            for text in given {
                let (collection, rule) = text.split_once(':').unwrap_or((text, "TRUE"));
                let rules = permissions.entry(collection).or_default();
                if rules.insert(deed.to_owned(), json!(rule)).is_some() {
                    let message = format!("--{deed} stands twice for '{collection}'");
                    return Err(Failure::usage(message).with_hint("join the rules by OR").into());
                }
            }
        }
        if permissions.is_empty() {
            let failure = Failure::usage("a key that allows nothing opens nothing");
            return Err(failure.with_hint("say --all, or what it may --read and --write").into());
        }
        Ok(json!(permissions))
    }
}

impl TokenFlags {
    /// What is declared of the issuer, if there is one.
    fn credential(&self) -> Result<Option<Value>> {
        let Some(issuer) = &self.issuer else { return Ok(None) };
        let mut credential = json!({ "issuer": issuer, "audience": self.audience });
        if let Some(path) = &self.jwks_file {
            let set: Value = serde_json::from_str(&read(path)?).map_err(|error| {
                Failure::usage(format!("{} is no JWK Set: {error}", path.display()))
            })?;
            credential["jwks"] = set;
        }
        if let Some(path) = &self.secret_file {
            // The end of the line is the editor's.
            credential["secret"] = json!(read(path)?.trim_end_matches(['\r', '\n']));
        }
        Ok(Some(credential))
    }
}

fn read(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path);
    text.map_err(|error| Failure::usage(format!("read {}: {error}", path.display())).into())
}

/// Declares a key that there is not yet.
async fn declare(client: &Client, path: &str, resource: &Resource) -> Result<()> {
    let request = client.request(Method::PUT, path);
    let request = request.header(IF_NONE_MATCH, "*").json(&resource.to_value());
    client.send(request).await.with_context(|| format!("create {}", resource.id()))?;
    Ok(())
}

/// Whether a key is declared as it is to be, but for the salt of its hash.
async fn is_declared(client: &Client, path: &str, wanted: &Resource, token: &ApiToken) -> bool {
    let Ok(found) = client.request(Method::GET, path).send().await else { return false };
    let Ok(mut found) = found.json::<Value>().await else { return false };
    let (wanted, hash) = (wanted.to_value(), found["spec"]["apiKey"]["hash"].take());
    found["spec"]["apiKey"]["hash"] = wanted["spec"]["apiKey"]["hash"].clone();
    found["spec"] == wanted["spec"] && hash.as_str().is_some_and(|hash| token.opens(hash))
}

/// A key as a resource, checked.
pub(crate) fn key(app: Uuid, name: &ResourceName, spec: &Value) -> Result<Resource> {
    let resource = json!({
        "apiVersion": anabranch_schemas::resources::API_VERSION,
        "kind": "Key",
        "metadata": { "name": name, "app": app },
        "spec": spec,
    });
    Resource::from_value(&resource).map_err(|error| {
        let hint = error.hint.clone();
        let failure = Failure::usage(error.to_string());
        Failure { hint, ..failure }.into()
    })
}

fn claims(given: &[String]) -> Result<Map<String, Value>> {
    let claim = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("--claim '{text}' is not NAME=VALUE")))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        Ok((name.to_owned(), value))
    };
    given.iter().map(claim).collect()
}

fn show(token: &ApiToken, is_kept: bool) -> Result<()> {
    if is_kept {
        return print(format_args!("key {} is in the file", token.name()));
    }
    print(token.reveal())?;
    say("this is the only time that it is shown; send it as 'Authorization: Bearer KEY'");
    Ok(())
}

async fn list(of: &AppFlags) -> Result<()> {
    let client = of.client()?;
    let keys = listed(&client, "/api/v1/resources/key").await?;
    let app = of.app.to_string();
    let mut table = Table::new(&["NAME", "OPENED BY", "STATE", "EXPIRES", "READ", "WRITE"]);
    for item in keys.iter().filter(|item| item["metadata"]["app"] == app.as_str()) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (spec, permissions) = (&item["spec"], &item["spec"]["permissions"]);
        let may = |deed: &str| {
            let permissions = permissions.as_object().into_iter().flatten();
            let allowed = permissions.filter_map(|(collection, rules)| {
                let rule = rules[deed].as_str()?;
                Some(if rule.eq_ignore_ascii_case("true") {
                    collection.clone()
                } else {
                    format!("{collection}: {rule}")
                })
            });
            allowed.collect::<Vec<_>>().join("; ")
        };
        table.row([
            text(&item["metadata"]["name"]),
            match spec["jwt"]["issuer"].as_str() {
                Some(issuer) => format!("tokens of {issuer}"),
                None => "its secret".to_owned(),
            },
            text(&item["status"]["state"]),
            text(&spec["expiresAt"]),
            may("read"),
            may("write"),
        ]);
    }
    print(table)
}

async fn rotate(name: &ResourceName, file: Option<PathBuf>, of: &AppFlags) -> Result<()> {
    let (client, path) = (of.client()?, of.path(name));
    let found = client.send(client.request(Method::GET, &path)).await?;
    let version = found.headers().get(ETAG).cloned().context("the reply has no ETag")?;
    let mut resource: Value = found.json().await.context("read the key")?;
    if let Some(issuer) = resource["spec"]["jwt"]["issuer"].as_str() {
        let message = format!("key {name} has no secret to draw anew: tokens of {issuer} open it");
        let failure = Failure::new(Exit::Refused, message);
        return Err(failure
            .with_hint(
                "have the issuer sign with another key, and 'anabranch apply' the Key with the new \
                 JWKS: with the old key in it, too, until the tokens are over that it has signed",
            )
            .into());
    }
    let token = ApiToken::draw(name.clone());
    resource["spec"]["apiKey"]["hash"] = json!(token.hash());
    let put = client.request(Method::PUT, &path).header(IF_MATCH, version).json(&resource);
    let staged = file.as_deref().map(|path| key_file::stage(path, &token)).transpose()?;
    client.send(put).await.with_context(|| format!("rotate key {name}"))?;
    // Whatever fails from here on: the key can be rotated once more.
    staged.map(key_file::Staged::keep).transpose()?;
    show(&token, file.is_some())
}

async fn revoke(name: &ResourceName, of: &AppFlags) -> Result<()> {
    let client = of.client()?;
    client.send(client.request(Method::DELETE, &of.path(name))).await?;
    print(format_args!("{} revoked", ResourceId::Key(AppId(of.app), name.clone())))
}

/// Declares a key that may do everything, unless what is declared is just that. Blocks.
pub(crate) fn declare_all(metadata: &MetadataStore, app: Uuid, token: &ApiToken) -> Result<()> {
    let place = ResourceId::Key(AppId(app), token.name().clone()).key();
    let found = metadata.get(&place).context("read the keys")?;
    let permissions = json!({ OTHERS: { "read": "TRUE", "write": "TRUE" } });
    if let Some(entry) = &found
        && let Ok(declared) = serde_json::from_str::<Value>(&entry.value)
        && declared["spec"]["permissions"] == permissions
        && declared["spec"]["expiresAt"].is_null()
        && declared["spec"]["apiKey"]["hash"].as_str().is_some_and(|hash| token.opens(hash))
    {
        return Ok(());
    }
    let spec = json!({ "apiKey": { "hash": token.hash() }, "permissions": permissions });
    let resource = key(app, token.name(), &spec)?;
    let version = found.map(|entry| entry.version);
    let declared = metadata.compare_and_set(&place, version, Some(resource.to_json()));
    declared.with_context(|| format!("declare {}", resource.id()))?;
    Ok(())
}
