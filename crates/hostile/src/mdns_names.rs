//! Names of services: as a stranger's device has them in its records, and as a person types them.
//!
//! The first byte says how many of the next bytes are an instance's label; the same number after those is a type's. The whole
//! input is a text as well.

use mdns::wire::is_control;
use mdns::{HostName, InstanceName, ServiceName, ServiceType};

/// # Panics
/// When what is shown would control a terminal, or is read as something else.
pub fn run(input: &[u8]) {
    if let Some((&length, rest)) = input.split_first() {
        let (label, rest) = rest.split_at(usize::from(length).min(rest.len()));
        let service = &rest[..usize::from(length).min(rest.len())];
        let service = std::str::from_utf8(service).ok();
        let service_type = service.and_then(|service| ServiceType::from_labels(service, "_udp").ok());
        let service_type = service_type.unwrap_or_else(|| "_http._tcp".parse().expect("a type"));
        if let Ok(instance) = InstanceName::from_label(label) {
            assert_eq!(instance.as_bytes(), label);
            look_at(&ServiceName { instance, service_type });
        }
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(name) = text.parse::<ServiceName>() {
        assert!(ServiceName::ends_like_one(text));
        look_at(&name);
    }
    if let Ok(service_type) = text.parse::<ServiceType>() {
        assert_eq!(service_type.to_string().parse(), Ok(service_type));
    }
    if let Ok(host) = text.parse::<HostName>() {
        assert!(host.to_name().as_wire().len() <= 255);
    }
}

fn look_at(name: &ServiceName) {
    let shown = name.to_string();
    assert!(!shown.chars().any(is_control), "a terminal would obey {shown:?}");
    assert!(!name.instance.to_string().chars().any(is_control));
    assert_eq!(shown.parse().as_ref(), Ok(name), "a name that is read otherwise than it is shown");
    assert_eq!((shown + ".local").parse().as_ref(), Ok(name));
    // What may be published is what it says.
    if name.instance.check().is_ok() {
        assert_eq!(name.instance.as_str().parse().as_ref(), Ok(&name.instance));
    }
    assert!(name.to_name().as_wire().len() <= 255);
}
