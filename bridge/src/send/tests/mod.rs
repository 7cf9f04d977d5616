mod locating;
mod rebuilding;
mod selecting;
mod tailing;
