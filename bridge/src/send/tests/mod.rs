mod locating;
mod rebuilding;
mod selecting;
