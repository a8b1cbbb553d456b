//! Services as lines of text and as JSON.

use std::fmt::Write;
use std::net::IpAddr;

use beacon::{Instance, ResolvedService, ScopedAddress, ServiceName, ShownInstance, Txt};
use mdns::wire::is_control;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::names::{InterfaceNames, visible};
use crate::cli::output::Paint;
use crate::failure::Failure;

/// An address as one writes it to connect: link-local ones with their interface.
pub(super) fn address(address: ScopedAddress, names: &mut InterfaceNames) -> String {
    match address.ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => format!("{ip}%{}", names.get(address.interface)),
        ip => ip.to_string(),
    }
}

/// The line of one instance, as `eth0  My printer  _ipp._tcp`.
pub(super) fn instance_line(
    mark: char,
    instance: &Instance,
    names: &mut InterfaceNames,
    paint: Paint,
) -> String {
    let code = match mark {
        '+' => "32",
        '-' => "31",
        _ => "33",
    };
    let interface = names.get(instance.interface);
    let name = ShownInstance(&instance.name).to_string();
    format!(
        "{} {interface:<8} {}  {}\n",
        paint.with(code, &mark.to_string()),
        paint.bold(&format!("{name:<32}")),
        paint.dim(&instance.service_type.to_string()),
    )
}

/// How to reach a service, in lines below its own.
pub(super) fn details(service: &ResolvedService, names: &mut InterfaceNames, paint: Paint) -> String {
    let mut out = String::new();
    let mut line = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "    {} {value}", paint.dim(&format!("{key:<8}")));
    };
    line("host", &format!("{} port {}", visible(&service.host), service.port));
    let addresses: Vec<_> = service.addresses.iter().map(|known| address(*known, names)).collect();
    line("address", &addresses.join("  "));
    for (key, value) in service.txt.iter() {
        let key = visible(key);
        match value {
            Some(value) => line("txt", &format!("{key}={}", visible(value))),
            None => line("txt", &key),
        }
    }
    out
}

/// One instance as JSON; docs/mdns.md explains the keys.
#[derive(Debug, Serialize)]
pub(super) struct InstanceJson {
    event: &'static str,
    name: String,
    full_name: String,
    #[serde(rename = "type")]
    service_type: String,
    interface: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    details: Option<DetailsJson>,
}

/// How to reach it.
#[derive(Debug, Serialize)]
struct DetailsJson {
    host: String,
    port: u16,
    addresses: Vec<String>,
    txt: Map<String, Value>,
}

impl InstanceJson {
    pub(super) fn new(
        event: &'static str,
        instance: &Instance,
        service: Option<&ResolvedService>,
        names: &mut InterfaceNames,
    ) -> Self {
        Self {
            event,
            name: instance.name.as_str().into(),
            full_name: full_name(instance) + ".local",
            service_type: instance.service_type.to_string(),
            interface: names.get(instance.interface).into(),
            details: service.map(|service| DetailsJson {
                host: service.host.clone(),
                port: service.port,
                addresses: service.addresses.iter().map(|known| address(*known, names)).collect(),
                txt: txt_json(&service.txt),
            }),
        }
    }
}

/// An instance and its type, as `resolve` reads them.
fn full_name(instance: &Instance) -> String {
    let (name, service_type) = (instance.name.clone(), instance.service_type.clone());
    ServiceName { instance: name, service_type }.to_string()
}

/// One line of JSON. It is seen on terminals too, so what would control one is escaped beyond what JSON asks for.
pub(super) fn json_line(object: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string(object).map_err(|error| Failure::Runtime(error.to_string()))?;
    let mut line = String::with_capacity(json.len() + 1);
    for character in json.chars() {
        if is_control(character) {
            // Such characters stand in strings only, and all are below U+10000. Writing to a string cannot fail.
            let _ = write!(line, "\\u{:04x}", u32::from(character));
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    Ok(line)
}

/// Attributes: text, `true` for a key without a value, `{"hex": …}` for what is no text.
fn txt_json(txt: &Txt) -> Map<String, Value> {
    let mut object = Map::new();
    for (key, value) in txt.iter() {
        let value = match value.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
            None => Value::Bool(true),
            Some((Ok(text), _)) => text.into(),
            Some((Err(_), bytes)) => json!({ "hex": hex(bytes) }),
        };
        // The first of several counts (RFC 6763 §6.4).
        object.entry(String::from_utf8_lossy(key).into_owned()).or_insert(value);
    }
    object
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_it_was_and_controls_no_terminal() {
        let text = "a\u{7f}\u{9b}\u{202e}\x1b\\ü";
        let line = json_line(&json!({ "name": text })).unwrap();
        assert_eq!(line, "{\"name\":\"a\\u007f\\u009b\\u202e\\u001b\\\\ü\"}\n");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["name"], text);
    }
}
