mod access;
mod bad_input;
mod documents;
mod examples;
mod indexes;
pub(crate) mod openapi;
mod overload;
mod pages;
pub(crate) mod schema;
