//! What is asked, where, and when again.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use slab::Slab;

use crate::hash::{SlotsByHash, mix};
use crate::jitter;
use crate::link::{LinkId, Links};
use crate::querier::Subscriber;
use crate::schedule::Schedule;
use crate::wire::{Name, NameBuf, RecordType};

/// Between the first two times that a question is asked (RFC 6762 §5.2).
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Between two times at most (RFC 6762 §5.2).
const INTERVAL_MAX: Duration = Duration::from_hours(1);
/// The same for a record that is verified: three times in the ten seconds that RFC 6762 §10.4 gives it.
const INTERVAL_DOUBT: Duration = Duration::from_secs(2);

/// The slot of a question.
pub(crate) type QuestionId = usize;
/// The slot of a question on one link.
pub(crate) type AskingId = usize;

/// A question that somebody has.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) name: NameBuf,
    pub(crate) name_hash: u64,
    pub(crate) record_type: RecordType,
    /// The interface to which it is confined.
    scope: Option<u32>,
    pub(crate) subscribers: Vec<Subscriber>,
    askings: Vec<AskingId>,
}

/// Why a question is about to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    No,
    /// It is due.
    Poll,
    /// A record is to be refreshed, which does not change when the question is due.
    Refresh,
}

/// A question on one link.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) question: QuestionId,
    link: LinkId,
    /// From the next time to the one after.
    interval: Duration,
    /// How often it was asked since the link came up.
    asked: u32,
    ready: Ready,
}

/// All questions, and on which links they are asked.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    all: Slab<Question>,
    by_key: SlotsByHash,
    askings: Slab<Asking>,
    schedule: Schedule,
    /// By link: what is to be asked at once.
    ready: Vec<Vec<AskingId>>,
    /// By link: when the questions are asked first that came up together, so that they share packets.
    batches: Vec<Option<Instant>>,
    /// How many questions are for all types.
    any: usize,
}

fn key(name_hash: u64, record_type: RecordType, scope: Option<u32>) -> u64 {
    mix([name_hash, u64::from(record_type.0) << 33 | scope.map_or(0, |index| 1 << 32 | u64::from(index))])
}

impl Questions {
    pub(crate) fn get(&self, id: QuestionId) -> Option<&Question> {
        self.all.get(id)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.schedule.next()
    }

    fn lookup(
        &self,
        hash: u64,
        name: Name<'_>,
        record_type: RecordType,
        scope: Option<u32>,
    ) -> Option<QuestionId> {
        let id = *self.by_key.get(&key(hash, record_type, scope))? as usize;
        let question = self.all.get(id)?;
        (question.record_type == record_type && question.name == name).then_some(id)
    }

    /// The questions that a record of that name and type on that interface answers.
    pub(crate) fn matching(
        &self,
        hash: u64,
        name: Name<'_>,
        record_type: RecordType,
        interface: u32,
    ) -> impl Iterator<Item = QuestionId> + use<> {
        let any = self.any > 0 && record_type != RecordType::ANY;
        [
            self.lookup(hash, name, record_type, None),
            self.lookup(hash, name, record_type, Some(interface)),
            if any { self.lookup(hash, name, RecordType::ANY, None) } else { None },
        ]
        .into_iter()
        .flatten()
    }

    /// Makes `subscriber` one of those who want to know. Returns the question and whether nobody had it before: then it is
    /// to be asked with [`Questions::ask`].
    pub(crate) fn subscribe(
        &mut self,
        name: &NameBuf,
        name_hash: u64,
        record_type: RecordType,
        scope: Option<u32>,
        subscriber: Subscriber,
    ) -> (QuestionId, bool) {
        if let Some(id) = self.lookup(name_hash, name.as_name(), record_type, scope) {
            self.all[id].subscribers.push(subscriber);
            return (id, false);
        }
        let name = name.clone();
        let question = Question {
            name,
            name_hash,
            record_type,
            scope,
            subscribers: vec![subscriber],
            askings: Vec::new(),
        };
        let id = self.all.insert(question);
        self.by_key.insert(key(name_hash, record_type, scope), id as u32);
        self.any += usize::from(record_type == RecordType::ANY);
        (id, true)
    }

    /// `subscriber` is no longer interested.
    pub(crate) fn unsubscribe(&mut self, id: QuestionId, subscriber: Subscriber) {
        let Some(question) = self.all.get_mut(id) else { return };
        if let Some(at) = question.subscribers.iter().position(|other| *other == subscriber) {
            question.subscribers.swap_remove(at);
        }
        if !question.subscribers.is_empty() {
            return;
        }
        let question = self.all.remove(id);
        self.by_key.remove(&key(question.name_hash, question.record_type, question.scope));
        self.any -= usize::from(question.record_type == RecordType::ANY);
        for asking in question.askings {
            self.drop_asking(asking);
        }
    }

    fn drop_asking(&mut self, id: AskingId) {
        let asking = self.askings.remove(id);
        self.schedule.clear(id);
        if asking.ready != Ready::No {
            self.ready[asking.link].retain(|other| *other != id);
        }
    }

    /// Begins to ask on `link`, unless `answered`; then the question waits until [`Questions::resume`].
    pub(crate) fn ask(
        &mut self,
        id: QuestionId,
        link: LinkId,
        interface: u32,
        answered: bool,
        rng: &mut ChaCha8Rng,
        now: Instant,
    ) {
        let first = self.batch(link, rng, now);
        let Some(question) = self.all.get_mut(id) else { return };
        if question.scope.is_some_and(|scope| scope != interface) {
            return;
        }
        let asking = Asking { question: id, link, interval: INTERVAL_MIN, asked: 0, ready: Ready::No };
        let asking = self.askings.insert(asking);
        question.askings.push(asking);
        if !answered {
            self.schedule.set(asking, first);
        }
    }

    /// When a question that comes up now is asked first: after 20 to 120 ms (RFC 6762 §5.2), together with those that
    /// came up just before.
    fn batch(&mut self, link: LinkId, rng: &mut ChaCha8Rng, now: Instant) -> Instant {
        if self.batches.len() <= link {
            self.batches.resize(link + 1, None);
            self.ready.resize_with(link + 1, Vec::new);
        }
        match self.batches[link] {
            Some(at) if at >= now + Duration::from_millis(20) => at,
            _ => *self.batches[link].insert(now + jitter(rng, 20, 120)),
        }
    }

    fn askings_on<'q>(
        &'q self,
        id: QuestionId,
        links: &'q Links,
        interface: u32,
    ) -> impl Iterator<Item = AskingId> + 'q {
        self.all.get(id).into_iter().flat_map(|question| &question.askings).copied().filter(move |&asking| {
            self.askings
                .get(asking)
                .and_then(|asking| links.get(asking.link))
                .is_some_and(|link| link.interface == interface)
        })
    }

    /// The only records that there are to be had have come: no need to ask again on that interface (RFC 6762 §5.2).
    pub(crate) fn park(&mut self, id: QuestionId, links: &Links, interface: u32) {
        for link in links.of_interface(interface) {
            if let Some(asking) = self.asking_on_link(id, link) {
                self.schedule.clear(asking);
            }
        }
    }

    /// What answered the question is gone, or in doubt: ask again, as if it were new.
    pub(crate) fn resume(
        &mut self,
        id: QuestionId,
        links: &Links,
        interface: u32,
        doubt: bool,
        rng: &mut ChaCha8Rng,
        now: Instant,
    ) {
        let askings: Vec<AskingId> = self.askings_on(id, links, interface).collect();
        for asking in askings {
            let link = self.askings[asking].link;
            let at = self.batch(link, rng, now);
            self.askings[asking].interval = if doubt { INTERVAL_DOUBT } else { INTERVAL_MIN };
            self.schedule.set_earlier(asking, at);
        }
    }

    /// Asks everything on `link` again, as if it had just come up.
    pub(crate) fn restart_link(&mut self, link: LinkId, rng: &mut ChaCha8Rng, now: Instant) {
        let at = self.batch(link, rng, now);
        for (id, asking) in &mut self.askings {
            if asking.link == link {
                asking.interval = INTERVAL_MIN;
                asking.asked = 0;
                self.schedule.set(id, at);
            }
        }
    }

    /// Forgets what is asked on `link`, which is gone.
    pub(crate) fn forget_link(&mut self, link: LinkId) {
        let gone: Vec<AskingId> =
            self.askings.iter().filter(|(_, asking)| asking.link == link).map(|(id, _)| id).collect();
        for id in gone {
            let question = self.askings[id].question;
            self.all[question].askings.retain(|other| *other != id);
            self.drop_asking(id);
        }
        if let Some(batch) = self.batches.get_mut(link) {
            *batch = None;
        }
    }

    /// All questions.
    pub(crate) fn ids(&self) -> Vec<QuestionId> {
        self.all.iter().map(|(id, _)| id).collect()
    }

    /// Asks on `link` at once, because a record is to be refreshed.
    pub(crate) fn refresh(&mut self, id: QuestionId, link: LinkId) {
        let asking = self.asking_on_link(id, link);
        if let Some(asking) = asking {
            self.make_ready(asking, Ready::Refresh);
        }
    }

    fn asking_on_link(&self, id: QuestionId, link: LinkId) -> Option<AskingId> {
        let question = self.all.get(id)?;
        question
            .askings
            .iter()
            .copied()
            .find(|&asking| self.askings.get(asking).is_some_and(|a| a.link == link))
    }

    fn make_ready(&mut self, id: AskingId, why: Ready) {
        let asking = &mut self.askings[id];
        if asking.ready == Ready::No {
            self.ready[asking.link].push(id);
        }
        if asking.ready != Ready::Poll {
            asking.ready = why;
        }
    }

    /// Makes ready what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.schedule.pop_due(now) {
            self.make_ready(id, Ready::Poll);
        }
    }

    /// Somebody else asks the same question on that link, and knows no answers that we do not know: theirs counts as
    /// ours, if ours was to follow soon (RFC 6762 §7.3).
    pub(crate) fn asked_by_others(&mut self, id: QuestionId, link: LinkId, now: Instant) {
        let Some(asking) = self.asking_on_link(id, link) else { return };
        let Some(at) = self.schedule.at(asking) else { return };
        let interval = self.askings[asking].interval;
        if at.saturating_duration_since(now) <= INTERVAL_MIN.max(interval / 4) {
            self.count_as_asked(asking, now);
        }
    }

    /// RFC 6762 §5.2: intervals double up to an hour.
    fn count_as_asked(&mut self, id: AskingId, now: Instant) {
        let asking = &mut self.askings[id];
        asking.asked += 1;
        self.schedule.set(id, now + asking.interval);
        asking.interval = (asking.interval * 2).min(INTERVAL_MAX);
    }

    /// A link on which something is to be asked at once.
    pub(crate) fn ready_link(&self) -> Option<LinkId> {
        self.ready.iter().position(|ready| !ready.is_empty())
    }

    /// What is to be asked next on `link`, and whether it would be the first time.
    pub(crate) fn peek_ready(&self, link: LinkId) -> Option<(&Question, bool)> {
        let asking = self.askings.get(*self.ready.get(link)?.last()?)?;
        let first = asking.asked == 0 && asking.ready == Ready::Poll;
        Some((self.all.get(asking.question)?, first))
    }

    /// What was peeked at has been asked. Returns the question.
    pub(crate) fn pop_ready(&mut self, link: LinkId, now: Instant) -> Option<QuestionId> {
        let id = self.ready.get_mut(link)?.pop()?;
        let asking = self.askings.get_mut(id)?;
        let (question, why) = (asking.question, asking.ready);
        asking.ready = Ready::No;
        if why == Ready::Poll {
            self.count_as_asked(id, now);
        }
        Some(question)
    }

    /// How often the question was asked at least, on the links of an interface.
    pub(crate) fn asked(&self, id: QuestionId, links: &Links, interface: u32) -> u32 {
        self.askings_on(id, links, interface).map(|asking| self.askings[asking].asked).max().unwrap_or(0)
    }
}
