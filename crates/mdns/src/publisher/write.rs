//! Probes and responses, as packets.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::responder::Legacy;
use super::{Context, Pending, Publisher, RecordId};
use crate::link::{LinkId, Links};
use crate::publisher::presence::PresenceId;
use crate::wire::{Class, Header, Mode, Question, RData, RecordType, Section, Writer};

/// Records looked at for one packet at most: no more than that fit, uncompressed as they are counted.
const CANDIDATES_MAX: usize = 128;

/// A buffer to write a packet into: what it has room for, and how much of it should be used.
pub(crate) struct Room<'b> {
    pub(crate) buf: &'b mut [u8],
    /// So much fits in one unfragmented packet (RFC 6762 §17). A larger one is only for a record that needs it.
    pub(crate) usual: usize,
}

/// A unicast response that was written.
pub(crate) struct Written {
    pub(crate) link: LinkId,
    pub(crate) to: SocketAddr,
    pub(crate) source: Option<IpAddr>,
    /// 0 when there was nothing to say after all.
    pub(crate) len: usize,
}

impl Publisher {
    /// A link on which multicast responses are due.
    pub(crate) fn due_link(&self, now: Instant) -> Option<LinkId> {
        self.pending.iter().position(|pending| pending.next().is_some_and(|due| due <= now))
    }

    /// Writes a multicast response with what is due on `link`, and what may come along (RFC 6762 §6.4). Returns its length.
    pub(crate) fn write_response(&mut self, link: LinkId, room: Room<'_>, cx: &mut Context<'_>) -> usize {
        let (mut candidates, mut others) = (self.lists.take(), self.lists.take());
        while candidates.len() < CANDIDATES_MAX
            && others.len() < CANDIDATES_MAX
            && let Some(id) = self.pending[link].pop()
        {
            let may_go = |pending: Pending| pending.not_before <= cx.now;
            match self.records.get(id).and_then(|own| own.on(link).pending) {
                Some(pending) if may_go(pending) => candidates.push(id),
                _ => others.push(id),
            }
        }
        self.packet_serial += 1;
        let mut written = self.lists.take();
        let len = self.write_records(link, &candidates, false, room, &mut written, cx);
        for &id in &written {
            if let Some(own) = self.records.get_mut(id) {
                let on = own.on_mut(link);
                on.multicast = Some(cx.now);
                if let Some(pending) = on.pending.take() {
                    on.announced = on.announced.saturating_add(u8::from(pending.announces));
                }
                self.pending[link].clear(id);
            }
        }
        if written.is_empty()
            && let Some(&too_large) = candidates.first()
        {
            // It does not fit in the largest packet: nobody can be told.
            self.forget_pending(too_large, link);
            self.bury(too_large);
        }
        for &id in candidates.iter().chain(&others) {
            if let Some(pending) = self.records.get(id).and_then(|own| own.on(link).pending) {
                self.pending[link].set(id, pending.due);
            }
        }
        for &id in &written {
            self.bury(id);
        }
        for list in [candidates, others, written] {
            self.lists.give_back(list);
        }
        len
    }

    /// The link of the next unicast response that is due.
    pub(crate) fn due_reply(&self, now: Instant) -> Option<LinkId> {
        self.replies.iter().find(|reply| reply.due <= now).map(|reply| reply.link)
    }

    /// Writes the next unicast response that is due.
    pub(crate) fn write_reply(&mut self, room: Room<'_>, cx: &mut Context<'_>) -> Option<Written> {
        let at = self.replies.iter().position(|reply| reply.due <= cx.now)?;
        let mut reply = self.replies.remove(at)?;
        self.packet_serial += 1;
        let mut written = self.lists.take();
        let link = reply.link;
        let len = match &reply.legacy {
            Some(legacy) => self.write_legacy(link, &reply.records, legacy, room, &mut written, cx),
            None => self.write_records(link, &reply.records, true, room, &mut written, cx),
        };
        let answer = Written { link, to: reply.to, source: reply.source, len };
        reply
            .records
            .retain(|id| self.records.get(*id).is_some_and(|own| own.written_in != self.packet_serial));
        // What a legacy querier is told must be in one packet.
        if reply.legacy.is_none() && !written.is_empty() && !reply.records.is_empty() {
            self.replies.push_front(reply);
        } else {
            self.lists.give_back(reply.records);
        }
        self.lists.give_back(written);
        Some(answer)
    }

    /// Writes records as answers, as many as fit with what belongs to them as additional records (RFC 6763 §12). Puts those
    /// that were written in `written` and returns the length of the packet.
    fn write_records(
        &mut self,
        link: LinkId,
        answers: &[RecordId],
        unicast: bool,
        Room { buf, usual }: Room<'_>,
        written: &mut Vec<RecordId>,
        cx: &Context<'_>,
    ) -> usize {
        let usual = usual.min(buf.len());
        let mut writer = Writer::new(buf, Mode::Mdns, Header::RESPONSE);
        let (mut companions, mut more) = (self.lists.take(), self.lists.take());
        let mut reserved = 0;
        for &id in answers {
            let Some(own) = self.records.get(id) else { continue };
            if own.written_in == self.packet_serial {
                continue;
            }
            self.companions(id, link, cx.links, &mut companions);
            let companions_len: usize = companions
                .iter()
                .filter(|id| self.is_worth_adding(**id, link, unicast, cx.now))
                .map(|id| self.records[*id].len_max())
                .sum();
            let full = writer.len() + reserved + own.len_max() + companions_len > usual;
            if (full && !written.is_empty()) || !writer.push(Section::Answer, &own.as_record()) {
                break;
            }
            reserved += companions_len;
            written.push(id);
            self.records[id].written_in = self.packet_serial;
            more.append(&mut companions);
        }
        for &id in &more {
            if !self.is_worth_adding(id, link, unicast, cx.now) || writer.len() > usual {
                continue;
            }
            let own = &self.records[id];
            if writer.len() + own.len_max() <= usual && writer.push(Section::Additional, &own.as_record()) {
                self.records[id].written_in = self.packet_serial;
                written.push(id);
            }
        }
        self.lists.give_back(companions);
        self.lists.give_back(more);
        if writer.is_empty() || written.is_empty() { 0 } else { writer.finish().len() }
    }

    /// Writes the response to a legacy querier, who has this one packet (RFC 6762 §6.7): all answers, or the TC bit; then what
    /// belongs to them, as far as there is room (RFC 2181 §9: that some of it is missing is not said).
    fn write_legacy(
        &mut self,
        link: LinkId,
        answers: &[RecordId],
        legacy: &Legacy,
        Room { buf, usual }: Room<'_>,
        written: &mut Vec<RecordId>,
        cx: &Context<'_>,
    ) -> usize {
        let most = buf.len();
        let fits = legacy.payload_max.unwrap_or(usual).min(most);
        let mut len = 0;
        // More than it can be relied on to take is only for a record that needs it.
        for limit in [fits, most] {
            let header = Header::legacy_response(legacy.id);
            let mut writer = Writer::new(&mut buf[..limit], Mode::Legacy, header);
            for asked in &legacy.asked {
                let question = Question {
                    name: asked.name.as_name(),
                    record_type: asked.record_type,
                    class: asked.class,
                    unicast_response: false,
                };
                if !writer.push_question(&question) {
                    writer.set_truncated();
                    break;
                }
            }
            for &id in answers {
                let Some(own) = self.records.get_mut(id) else { continue };
                if !writer.push(Section::Answer, &own.as_record()) {
                    writer.set_truncated();
                    break;
                }
                own.written_in = self.packet_serial;
                written.push(id);
            }
            if written.is_empty() {
                continue;
            }
            let mut companions = self.lists.take();
            for &id in answers {
                self.companions(id, link, cx.links, &mut companions);
                for &id in &companions {
                    if self.is_worth_adding(id, link, true, cx.now)
                        && let Some(own) = self.records.get_mut(id)
                        && writer.push(Section::Additional, &own.as_record())
                    {
                        own.written_in = self.packet_serial;
                    }
                }
            }
            self.lists.give_back(companions);
            len = writer.finish().len();
            break;
        }
        len
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
    fn companions(&self, id: RecordId, link: LinkId, links: &Links, companions: &mut Vec<RecordId>) {
        companions.clear();
        let Some(own) = self.records.get(id).filter(|own| !own.leaving) else { return };
        let mut of_name = |name: crate::wire::Name<'_>, types: &[RecordType]| {
            let named = self.by_name.get(&self.keyed.name(name)).map(Vec::as_slice).unwrap_or_default();
            for record_type in types {
                let before = companions.len();
                let live = |other: &super::OwnRecord| other.name == name && self.is_live(other, link, links);
                let of_type = named.iter().copied().filter(|other| {
                    self.records.get(*other).is_some_and(|o| o.record_type() == *record_type && live(o))
                });
                companions.extend(of_type);
                // RFC 6762 §6.1: that there is no address of a family is worth saying.
                if companions.len() == before && matches!(*record_type, RecordType::A | RecordType::AAAA) {
                    companions.extend(
                        named.iter().copied().find(|other| {
                            self.records.get(*other).is_some_and(|o| o.is_negative() && live(o))
                        }),
                    );
                }
            }
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
        while let Some(&id) = self.probes[link].front() {
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
            self.probes[link].pop_front();
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
