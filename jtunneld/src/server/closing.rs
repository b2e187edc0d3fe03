//! The end of tunnels: one client's, or all when the program ends.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::hook;
use common::io::watch::Watch;
use common::peers::authorized::Grant;
use common::report::log;
use common::sys;
use nix::sys::signal::Signal;

use super::Server;
use crate::clients::{Prog, Slot};
use crate::closer;
use crate::link::Link;

/// How long a PROG may clean up before its device goes.
const CLEAN_UP: Duration = Duration::from_secs(5);
/// The same when the program ends.
const LAST_CLEAN_UP: Duration = Duration::from_secs(1);

impl Server {
    /// Re-reads authorisation and forgets every client that is gone from the directory.
    pub(super) fn rescan(&mut self) {
        self.authorized.reload(Instant::now());
        let (clients, authorized) = (&mut self.clients, &self.authorized);
        let (own, now, mut gone) = (self.id, Instant::now(), Vec::new());
        for (slot, client) in clients.iter().filter(|(_, c)| c.closing.is_none()) {
            match (authorized.grant(client.id), &mut client.link) {
                (Some(Grant::Plain), None) => {}
                (Some(Grant::Keyed(secret)), Some(link)) if link.is_of(&secret) => {}
                // Another key: device and PROG stay, but a new session has to be opened.
                (Some(Grant::Keyed(secret)), Some(link)) if link.word() == secret.word() => {
                    **link = Link::new(secret, client.id, own, now);
                    log::info(format_args!("client {}: new key, {link}", client.id));
                }
                // Another word: PROG is to see it.
                _ => gone.push(slot),
            }
        }
        for slot in gone {
            self.forget(slot);
        }
        let is_current = |grant, link: &Link| match grant {
            Some(Grant::Keyed(secret)) => link.is_of(&secret),
            _ => false,
        };
        self.waiting
            .retain(|id, link| is_current(self.authorized.grant(id), link));
        log::info(format_args!(
            "authorised clients: {}{}",
            self.authorized.count(),
            self.authorized.protections()
        ));
    }

    #[cold]
    pub(super) fn device_gone(&mut self, slot: Slot) {
        if let Some(client) = self.clients.get(slot).filter(|c| c.closing.is_none()) {
            let (id, name) = (client.id, client.tun.name());
            log::warning(format_args!("client {id}: device {name} is gone"));
            self.losses.add(id, Instant::now());
        }
        self.forget(slot);
    }

    /// Asks PROG to clean up. The device is closed when that has ended, or after a while.
    fn forget(&mut self, slot: Slot) {
        let Some(client) = self.clients.get(slot).filter(|c| c.closing.is_none()) else {
            return;
        };
        // At once: the set reports a deleted device for ever.
        let _ = self.tuns.delete(&client.tun);
        if let Prog::Running(pid) = client.prog {
            hook::terminate(pid);
        }
        client.closing = Some(Instant::now() + CLEAN_UP);
        self.closing.push(slot);
    }

    pub(super) fn close_ended(&mut self, now: Instant) {
        let clients = &mut self.clients;
        let mut tuns = Vec::new();
        self.closing.retain(|&slot| {
            let Some(client) = clients.get(slot) else {
                return false;
            };
            let runs = matches!(client.prog, Prog::Running(_));
            if runs && client.closing.is_some_and(|at| now < at) {
                return true;
            }
            if let Some(client) = clients.remove(slot) {
                let (id, name, totals) = (client.id, client.tun.name(), client.totals());
                let seconds = now.saturating_duration_since(client.admitted).as_secs();
                log::info(format_args!(
                    "client {id} forgotten, {name} closed: {totals} in {seconds} s"
                ));
                self.past += totals;
                tuns.push(client.tun);
            }
            false
        });
        closer::close_all(tuns, self.socket.as_fd());
    }

    /// Gives every PROG that still runs a moment to clean up while its device is there.
    pub(super) fn stop(&mut self, signal: Signal) {
        let (signal, seconds) = (&signal.as_str()[3..], self.started.elapsed().as_secs());
        let mut totals = self.past;
        for (_, client) in self.clients.iter() {
            totals += client.totals();
        }
        log::info(format_args!(
            "stopping: signal {signal}, {totals} in {seconds} s"
        ));
        let end = Instant::now() + LAST_CLEAN_UP;
        for (_, client) in self.clients.iter() {
            // How PROG ends now is not worth a line. One that cleans up already is told once only:
            // a second signal would end what it does.
            if client.closing.replace(end).is_none()
                && let Prog::Running(pid) = client.prog
            {
                hook::terminate(pid);
            }
        }
        let mut signals = Watch::default();
        let _ = signals.add(self.wake.as_fd());
        while Instant::now() < end && self.any_prog_runs() {
            let _ = signals.wait(Some(end));
            let _ = self.on_signals();
        }
        closer::delete_together(self.clients.iter().map(|(_, client)| &client.tun));
    }

    fn any_prog_runs(&mut self) -> bool {
        let mut progs = self.clients.iter().map(|(_, client)| client.prog);
        progs.any(|prog| matches!(prog, Prog::Running(_)))
    }

    /// Takes note of every PROG that has ended.
    pub(super) fn reap(&mut self) {
        while let Some((pid, status)) = sys::reap() {
            // Others are helpers that closed devices.
            let Some(client) = self.clients.by_prog(pid) else {
                continue;
            };
            client.prog = Prog::Ended(status);
            self.hook.hear_last(Instant::now());
            if client.closing.is_none() && !status.success() {
                let ending = hook::describe(status);
                let prog = self.hook.program().display();
                log::warning(format_args!("client {}: {prog} {ending}", client.id));
            }
        }
        self.wait_for_words();
    }
}
