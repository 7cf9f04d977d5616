mod bad_input;
mod documents;
mod openapi;
mod overload;
