//! Probes and responses, as packets.

use std::time::Instant;

use super::{Context, Pending, Publisher, RecordId};
use crate::link::{LinkId, Links};
use crate::publisher::presence::PresenceId;
use crate::wire::{Class, Header, Mode, Question, RData, RecordType, Section, Writer};

/// A buffer to write a packet into: what it has room for, and how much of it should be used.
pub(crate) struct Room<'b> {
    pub(crate) buf: &'b mut [u8],
    /// So much fits in one unfragmented packet (RFC 6762 §17). A larger one is only for a record that needs it.
    pub(crate) usual: usize,
}

impl Publisher {
    /// A link on which multicast responses are due.
    pub(crate) fn due_link(&self, now: Instant) -> Option<LinkId> {
        (0..self.pending.len()).find(|link| self.pending_schedule.at(*link).is_some_and(|due| due <= now))
    }

    /// Writes a multicast response with what is due on `link`, and what may come along (RFC 6762 §6.4). Returns its length.
    pub(crate) fn write_response(&mut self, link: LinkId, room: Room<'_>, cx: &mut Context<'_>) -> usize {
        let may_go = |pending: Pending| pending.not_before <= cx.now;
        let candidates: Vec<RecordId> = self.pending[link]
            .iter()
            .copied()
            .filter(|id| self.records.get(*id).and_then(|own| own.on(link).pending).is_some_and(may_go))
            .collect();
        self.packet_serial += 1;
        let (len, written) = self.write_records(link, &candidates, None, room, cx);
        let goes: Vec<RecordId> = written.iter().copied().filter(|id| candidates.contains(id)).collect();
        for &id in &written {
            if let Some(own) = self.records.get_mut(id) {
                let on = own.on_mut(link);
                on.multicast = Some(cx.now);
                if let Some(pending) = on.pending.take() {
                    on.announced = on.announced.saturating_add(u8::from(pending.announces));
                }
            }
        }
        let records = &self.records;
        self.pending[link].retain(|id| records.get(*id).is_some_and(|own| own.on(link).pending.is_some()));
        if goes.is_empty() {
            // Not even one fits in the largest packet: nobody can be told.
            for id in candidates {
                self.forget_pending(id, link);
            }
        }
        for id in written {
            self.bury(id);
        }
        self.reschedule(link);
        len
    }

    /// The link of the next unicast response that is due.
    pub(crate) fn due_reply(&self, now: Instant) -> Option<LinkId> {
        self.replies.iter().find(|reply| reply.due <= now).map(|reply| reply.link)
    }

    /// Writes the next unicast response that is due. Returns its link, its destination and its length.
    pub(crate) fn write_reply(
        &mut self,
        room: Room<'_>,
        cx: &mut Context<'_>,
    ) -> Option<(LinkId, std::net::SocketAddr, usize)> {
        let at = self.replies.iter().position(|reply| reply.due <= cx.now)?;
        let mut reply = self.replies.remove(at)?;
        self.packet_serial += 1;
        let (len, written) = self.write_records(reply.link, &reply.records, reply.legacy.as_ref(), room, cx);
        let answer = (reply.link, reply.to, len);
        // What a legacy querier is told must be in one packet.
        if reply.legacy.is_none() && !written.is_empty() {
            reply.records.retain(|id| !written.contains(id));
            if !reply.records.is_empty() {
                self.replies.push_front(reply);
            }
        }
        Some(answer)
    }

    /// Writes records as answers, as many as fit with what belongs to them as additional records (RFC 6763 §12). Returns
    /// the length and the records written.
    fn write_records(
        &mut self,
        link: LinkId,
        answers: &[RecordId],
        legacy: Option<&(u16, Vec<super::responder::Asked>)>,
        Room { buf, usual }: Room<'_>,
        cx: &Context<'_>,
    ) -> (usize, Vec<RecordId>) {
        let (mode, header) = match legacy {
            Some((id, _)) => (Mode::Legacy, Header::legacy_response(*id)),
            None => (Mode::Mdns, Header::RESPONSE),
        };
        let usual = usual.min(buf.len());
        let mut writer = Writer::new(buf, mode, header);
        for asked in legacy.into_iter().flat_map(|(_, asked)| asked) {
            writer.push_question(&Question {
                name: asked.name.as_name(),
                record_type: asked.record_type,
                class: asked.class,
                unicast_response: false,
            });
        }
        let mut written: Vec<RecordId> = Vec::new();
        let mut reserved = 0;
        for &id in answers {
            let Some(own) = self.records.get(id) else { continue };
            if own.written_in == self.packet_serial {
                continue;
            }
            let companions = self.companions(id, link, cx.links);
            let companions_len: usize = companions
                .iter()
                .filter(|id| self.is_worth_adding(**id, link, legacy.is_some(), cx.now))
                .map(|id| self.records[*id].len_max())
                .sum();
            let full = writer.len() + reserved + own.len_max() + companions_len > usual;
            if (full && !written.is_empty()) || !writer.push(Section::Answer, &own.as_record()) {
                break;
            }
            reserved += companions_len;
            written.push(id);
            self.records[id].written_in = self.packet_serial;
        }
        for at in 0..written.len() {
            for id in self.companions(written[at], link, cx.links) {
                if !self.is_worth_adding(id, link, legacy.is_some(), cx.now) || writer.len() > usual {
                    continue;
                }
                let own = &self.records[id];
                if writer.len() + own.len_max() <= usual && writer.push(Section::Additional, &own.as_record())
                {
                    self.records[id].written_in = self.packet_serial;
                    written.push(id);
                }
            }
        }
        let len = if writer.is_empty() || written.is_empty() { 0 } else { writer.finish().len() };
        (len, written)
    }

    /// Whether an additional record should go along: it is not in the packet yet, and was not multicast within a second
    /// (RFC 6762 §6).
    fn is_worth_adding(&self, id: RecordId, link: LinkId, unicast: bool, now: Instant) -> bool {
        self.records.get(id).is_some_and(|own| {
            let lately =
                own.on(link).multicast.is_some_and(|at| now.saturating_duration_since(at) < super::GAP);
            own.written_in != self.packet_serial && (unicast || !lately)
        })
    }

    /// What the asker for a record wants next (RFC 6763 §12), from our own records: of a PTR the instance's SRV and TXT, of an
    /// SRV the addresses, of an address the others (RFC 6762 §6.2), or that there are none.
    fn companions(&self, id: RecordId, link: LinkId, links: &Links) -> Vec<RecordId> {
        let Some(own) = self.records.get(id).filter(|own| !own.leaving) else { return Vec::new() };
        let mut companions = Vec::new();
        let mut of_name = |name: crate::wire::Name<'_>, types: &[RecordType]| {
            let named = self.by_name.get(&self.keyed.name(name)).map(Vec::as_slice).unwrap_or_default();
            let mut found = Vec::new();
            for record_type in types {
                let before = found.len();
                let live = |other: &super::OwnRecord| other.name == name && self.is_live(other, link, links);
                let of_type = named.iter().copied().filter(|other| {
                    self.records.get(*other).is_some_and(|o| o.record_type() == *record_type && live(o))
                });
                found.extend(of_type);
                // RFC 6762 §6.1: that there is no address of a family is worth saying.
                if found.len() == before && matches!(*record_type, RecordType::A | RecordType::AAAA) {
                    found.extend(
                        named.iter().copied().find(|other| {
                            self.records.get(*other).is_some_and(|o| o.is_negative() && live(o))
                        }),
                    );
                }
            }
            companions.extend(found);
        };
        match own.data.as_rdata() {
            RData::Ptr(target) => {
                of_name(target, &[RecordType::SRV, RecordType::TXT]);
                let target =
                    self.by_name.get(&self.keyed.name(target)).map(Vec::as_slice).unwrap_or_default();
                let srv = target.iter().filter_map(|id| self.records.get(*id));
                for srv in srv {
                    if let RData::Srv(srv) = srv.data.as_rdata() {
                        of_name(srv.target, &[RecordType::A, RecordType::AAAA]);
                    }
                }
            }
            RData::Srv(srv) => of_name(srv.target, &[RecordType::A, RecordType::AAAA]),
            RData::A(_) | RData::Aaaa(_) => of_name(own.name.as_name(), &[RecordType::A, RecordType::AAAA]),
            _ => {}
        }
        companions.retain(|other| *other != id);
        companions.dedup();
        companions
    }

    /// A link on which names are to be probed for.
    pub(crate) fn probing_link(&self) -> Option<LinkId> {
        self.probes.iter().position(|probes| !probes.is_empty())
    }

    /// Writes a probe for as many names as fit (RFC 6762 §8.1, §8.2). Returns its length.
    pub(crate) fn write_probe(
        &mut self,
        link: LinkId,
        Room { buf, usual }: Room<'_>,
        unicast: bool,
        cx: &mut Context<'_>,
    ) -> usize {
        let usual = usual.min(buf.len());
        let mut writer = Writer::new(buf, Mode::Mdns, Header::QUERY);
        let mut chosen: Vec<PresenceId> = Vec::new();
        let mut reserved = writer.len();
        while let Some(&id) = self.probes[link].first() {
            let group = self.presences[id].group;
            let name = &self.groups[group].name;
            let records: usize = self.proposed(group, link, cx.links).map(super::OwnRecord::len_max).sum();
            let len = name.as_wire().len() + 4 + records;
            if reserved + len > usual && !chosen.is_empty() {
                break;
            }
            reserved += len;
            // A name without records on this interface has nothing to defend there.
            if records > 0 {
                writer.push_question(&Question {
                    name: name.as_name(),
                    record_type: RecordType::ANY,
                    class: Class::IN,
                    unicast_response: unicast,
                });
            }
            self.probes[link].remove(0);
            chosen.push(id);
        }
        for &id in &chosen {
            for own in self.proposed(self.presences[id].group, link, cx.links) {
                // RFC 6762 §10.2: no cache-flush bit here.
                let record = crate::wire::Record { cache_flush: false, ..own.as_record() };
                writer.push(Section::Authority, &record);
            }
        }
        for id in chosen {
            self.probed(id, cx.now);
        }
        if writer.is_empty() { 0 } else { writer.finish().len() }
    }
}
