//! `anabranch query`: one statement.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::client::ApiFlags;
use crate::failure::Failure;
use crate::output::{print, say};

/// Run one statement. Documents, and what an EXPLAIN says, are printed as JSON, one a line; of a
/// statement that changes documents, its transaction and their ids.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The statement, such as "SELECT * FROM cars WHERE Origin = :origin".
    statement: String,
    /// Values for the ':name's of the statement, as a JSON object.
    #[arg(long, value_name = "JSON")]
    args: Option<String>,
    /// See at least everything up to this transaction.
    #[arg(long, value_name = "TXN")]
    at_least: Option<u64>,
    /// Repeating a statement under the same key does nothing twice.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    api: ApiFlags,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { statement, args, at_least, idempotency_key, api } = args;
    let values: Value = match args {
        None => json!({}),
        Some(text) => serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("--args is not JSON: {error}")))?,
    };
    if !values.is_object() {
        return Err(Failure::usage("--args must be a JSON object").into());
    }
    let client = api.client()?;
    let mut request = client.statement(api.app, &statement, &values);
    if let Some(txn) = at_least {
        request = request.header("X-Anabranch-Txn-Id", txn);
    }
    if let Some(key) = idempotency_key {
        request = request.header("Idempotency-Key", key);
    }
    let reply: Value = client.json(request).await?;
    for warning in reply["warnings"].as_array().into_iter().flatten() {
        say(format_args!(
            "warning: {}",
            warning["message"].as_str().unwrap_or(&warning.to_string())
        ));
    }
    let items = reply["items"].as_array().context("the reply has no items")?;
    for item in items {
        print(item)?;
    }
    // What only reads has said everything with its rows.
    if reply["queryType"].as_str().is_some_and(|kind| !["select", "explain"].contains(&kind)) {
        print(json!({
            "transactionId": reply["transactionId"],
            "mutatedDocumentIds": reply["mutatedDocumentIds"],
        }))?;
    }
    Ok(())
}
