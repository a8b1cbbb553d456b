//! Query packets.

use super::{Context, Querier};
use crate::cache::EntryId;
use crate::link::LinkId;
use crate::wire::{Class, Header, Mode, Question, Section, Writer};

/// Known answers that go with a question. Whoever fills our cache does not make us fill the link in turn.
const KNOWN_MAX: usize = 2_048;

impl Querier {
    /// A link on which there is something to ask.
    pub(crate) fn ready_link(&self) -> Option<LinkId> {
        self.more_known.front().map(|(link, _)| *link).or_else(|| self.questions.ready_link())
    }

    /// Writes a query for `link`: as many questions as fit and their known answers; what of those does not fit
    /// follows in further packets (RFC 6762 §7.1, §7.2). Returns its length and whether it asks for unicast responses.
    pub(crate) fn write_query(
        &mut self,
        link: LinkId,
        buf: &mut [u8],
        unicast: bool,
        cx: &mut Context<'_>,
    ) -> (usize, bool) {
        let mut writer = Writer::new(buf, Mode::Mdns, Header::QUERY);
        let mut asks_unicast = false;
        let interface = cx.links.get(link).map_or(0, |link| link.interface);
        if self.more_known.is_empty() {
            let mut asked = std::mem::take(&mut self.asked_now);
            while let Some((question, first)) = self.questions.peek_ready(link) {
                // RFC 6762 §5.4: only the first time.
                let unicast_response = unicast && first;
                let fitted = writer.push_question(&Question {
                    name: question.name.as_name(),
                    record_type: question.record_type,
                    class: Class::IN,
                    unicast_response,
                });
                if !fitted {
                    break;
                }
                asks_unicast |= unicast_response;
                asked.extend(self.questions.pop_ready(link, cx.now));
            }
            for id in asked.drain(..) {
                let Some(question) = self.questions.get(id) else { continue };
                let known =
                    self.cache.set(link, question.name_hash, question.name.as_name(), question.record_type);
                let known = known.filter(|(_, entry)| entry.known_answer(cx.now).is_some()).take(KNOWN_MAX);
                self.more_known.extend(known.map(|(id, _)| (link, id)));
                self.asked(id, interface);
            }
            self.asked_now = asked;
        }
        while let Some(id) = self.next_known(link) {
            let record = self.cache.get(id).and_then(|entry| entry.known_answer(cx.now));
            if let Some(record) = record
                && !writer.push(Section::Answer, &record)
                && !writer.is_empty()
            {
                // RFC 6762 §7.2: the TC bit says that more follow.
                writer.set_truncated();
                break;
            }
            self.more_known.pop_front();
        }
        let len = if writer.is_empty() { 0 } else { writer.finish().len() };
        self.settle(cx);
        (len, asks_unicast)
    }

    fn next_known(&self, link: LinkId) -> Option<EntryId> {
        self.more_known.front().filter(|(of, _)| *of == link).map(|(_, id)| *id)
    }
}
