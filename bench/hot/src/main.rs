//! Hot functions, one at a time.
#![allow(clippy::print_stdout, reason = "a command-line program")]

fn main() {
    println!("{}", serde_json::json!({}));
}
