mod access;
mod bad_input;
mod documents;
mod indexes;
pub(crate) mod openapi;
mod overload;
mod pages;
