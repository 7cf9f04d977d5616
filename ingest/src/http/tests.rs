mod bad_input;
mod documents;
pub(crate) mod openapi;
mod overload;
