//! Ranks as threads of one process: messages are copied from the sender's memory to the
//! receiver's, by way of the receiver's box.
//!
//! Where a rank fails, it says so once, and every rank that waits for it, or ever will, fails in
//! turn: nobody waits for what does not come. Who waits for another rank gets what that one still
//! sends, so that what all ranks fail at, each fails at by itself, whoever is the first.

use super::Communicator;
use crate::error::RuntimeError;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How often a rank looks before it goes to sleep: some ten microseconds.
const LOOKS: usize = 2000;

/// Buffers that a box keeps for the next messages.
const SPARE: usize = 8;

/// What all ranks of a process share.
pub(crate) struct Exchange {
    boxes: Vec<Inbox>,
}

/// Where a rank finds what others sent it.
struct Inbox {
    mail: Mutex<Mail>,
    /// Counts changes of the mail, so that one can wait without the lock.
    changes: AtomicUsize,
    changed: Condvar,
}

#[derive(Default)]
struct Mail {
    /// Of each rank, what it sent, the oldest first.
    from: Vec<VecDeque<Vec<f32>>>,
    spare: Vec<Vec<f32>>,
    /// Of each rank, whether it has failed.
    failed: Vec<bool>,
}

impl Exchange {
    /// For so many ranks.
    pub(crate) fn new(ranks: u32) -> Arc<Exchange> {
        let queues = || (0..ranks).map(|_| VecDeque::new()).collect();
        let failed = vec![false; ranks as usize];
        let inbox = |_| Inbox {
            mail: Mutex::new(Mail { from: queues(), failed: failed.clone(), ..Mail::default() }),
            changes: AtomicUsize::new(0),
            changed: Condvar::new(),
        };
        Arc::new(Exchange { boxes: (0..ranks).map(inbox).collect() })
    }

    /// The line of one rank.
    pub(crate) fn line(self: &Arc<Exchange>, rank: u32) -> Box<dyn Communicator> {
        Box::new(Line { exchange: self.clone(), rank })
    }

    /// Says that a rank failed.
    pub(crate) fn fail(&self, rank: u32) {
        self.tell(|failed| failed[rank as usize] = true);
    }

    /// Ends every wait: no rank sends any more.
    pub(crate) fn close(&self) {
        self.tell(|failed| failed.fill(true));
    }

    fn tell(&self, what: impl Fn(&mut [bool])) {
        for inbox in &self.boxes {
            let mut mail = inbox.lock();
            what(&mut mail.failed);
            inbox.notify(mail);
        }
    }
}

impl Inbox {
    /// What a panicked holder left is whole: nothing panics while holding.
    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self, mail: MutexGuard<'_, Mail>) {
        self.changes.fetch_add(1, Ordering::Release);
        drop(mail);
        self.changed.notify_one();
    }

    fn put(&self, from: u32, values: &[f32]) {
        let spare = self.lock().spare.pop();
        let mut message = spare.unwrap_or_default();
        message.clear();
        message.extend_from_slice(values);
        let mut mail = self.lock();
        mail.from[from as usize].push_back(message);
        self.notify(mail);
    }

    fn take(&self, from: u32) -> Result<Vec<f32>, RuntimeError> {
        let mut mail = self.lock();
        let mut looks = 0;
        loop {
            // What was sent before is received.
            if let Some(message) = mail.from[from as usize].pop_front() {
                return Ok(message);
            }
            if mail.failed[from as usize] {
                return Err(RuntimeError::RankFailed { rank: from });
            }
            let seen = self.changes.load(Ordering::Acquire);
            if looks < LOOKS {
                drop(mail);
                while self.changes.load(Ordering::Acquire) == seen && looks < LOOKS {
                    std::hint::spin_loop();
                    looks += 1;
                }
                mail = self.lock();
            } else {
                mail = self.changed.wait(mail).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn give_back(&self, message: Vec<f32>) {
        let mut mail = self.lock();
        if mail.spare.len() < SPARE {
            mail.spare.push(message);
        }
    }
}

/// One rank's end.
struct Line {
    exchange: Arc<Exchange>,
    rank: u32,
}

impl Communicator for Line {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.exchange.boxes.len() as u32
    }

    fn neighbours(&self) -> u32 {
        self.size()
    }

    fn exchange(
        &mut self,
        sends: &[(u32, &[f32])],
        receives: &mut [(u32, &mut [f32])],
    ) -> Result<(), RuntimeError> {
        let boxes = &self.exchange.boxes;
        for (to, values) in sends {
            boxes[*to as usize].put(self.rank, values);
        }
        let own = &boxes[self.rank as usize];
        for (from, place) in receives {
            let message = own.take(*from)?;
            if message.len() != place.len() {
                let (sent, wanted) = (message.len(), place.len());
                let reason = format!("rank {from} sent {sent} numbers, {wanted} were waited for");
                return Err(RuntimeError::Bug { reason });
            }
            place.copy_from_slice(&message);
            own.give_back(message);
        }
        Ok(())
    }
}
