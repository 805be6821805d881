//! What the operator asks for: reload, rollback, disable, enable.
//!
//! Reload and rollback wait for the work on the plugin's file to end; disable and enable do not depend on it.

use std::sync::Arc;

use super::look::Look;
use super::{Keeper, settings};
use crate::plugins::catalogue::{Action, ActionError, ORDERS, Order};
use crate::plugins::generation::Generation;
use crate::plugins::sandbox::Guest;

impl<T: Guest> Keeper<T> {
    /// Carries an order out, now or when the work on the plugin's file has ended.
    pub(super) fn take_order(&mut self, order: Order) {
        let name = order.plugin.clone();
        if let Err(error) = self.check_order(&name, order.action) {
            order.answer(Err(error));
            return;
        }
        if order.action == Action::Reload {
            self.begin(&name, true);
        }
        match self.plugins.get_mut(&name) {
            Some(kept) if waits(order.action) && kept.is_busy() => kept.waiting.push(order),
            _ => {
                let result = self.carry_out(&name, order.action);
                order.answer(result);
            }
        }
    }

    fn check_order(&self, name: &str, action: Action) -> Result<(), ActionError> {
        let kept = self.plugins.get(name);
        let is_there = || Look::at(&self.path(name)) != Look::Absent;
        // What is not there any more may still be taken out, or put back for when it comes again.
        let is_known = settings::is_name(name) && (is_there() || (kept.is_some() && !waits(action)));
        if !is_known {
            return Err(ActionError::Unknown(name.to_owned()));
        }
        if kept.is_some_and(|kept| kept.waiting.len() >= ORDERS) {
            return Err(ActionError::Refused(format!("too many orders wait for the load of `{name}`")));
        }
        Ok(())
    }

    /// The work on a plugin's file has ended: carries out what waited for that.
    pub(super) fn finish(&mut self, name: &str, result: &Result<(), String>) {
        let Some(kept) = self.plugins.get_mut(name).filter(|kept| !kept.is_busy()) else { return };
        for order in std::mem::take(&mut kept.waiting) {
            let result = match order.action {
                Action::Reload => result.clone().map_err(ActionError::Refused),
                action => self.carry_out(name, action),
            };
            order.answer(result);
        }
    }

    fn carry_out(&mut self, name: &str, action: Action) -> Result<(), ActionError> {
        match action {
            // The load itself answers.
            Action::Reload => return Ok(()),
            Action::Disable => self.disable(name)?,
            Action::Enable => self.enable(name)?,
            Action::Rollback => self.roll_back(name)?,
        }
        tracing::info!(plugin = name, ?action, "done at the operator's request");
        self.publish();
        Ok(())
    }

    fn disable(&mut self, name: &str) -> Result<(), ActionError> {
        let kept = self.plugins.get_mut(name).ok_or_else(|| ActionError::Unknown(name.to_owned()))?;
        kept.disable();
        self.retry_those_without_routes(name);
        Ok(())
    }

    fn enable(&mut self, name: &str) -> Result<(), ActionError> {
        let kept = self.plugins.get(name).ok_or_else(|| ActionError::Unknown(name.to_owned()))?;
        if let Some(serving) = kept.entry.serving.clone() {
            self.check_routes(name, &serving).map_err(ActionError::Refused)?;
        }
        if let Some(kept) = self.plugins.get_mut(name) {
            kept.entry.disabled = false;
        }
        Ok(())
    }

    /// The file stays as it is: it is loaded when its content changes, or by `reload`.
    fn roll_back(&mut self, name: &str) -> Result<(), ActionError> {
        let previous = self.plugins.get(name).and_then(|kept| kept.previous.clone()).ok_or_else(|| {
            ActionError::Refused(format!("`{name}` has no generation before the one that serves"))
        })?;
        let generation = Arc::new(Generation::new(previous));
        self.check_routes(name, &generation).map_err(ActionError::Refused)?;
        if let Some(kept) = self.plugins.get_mut(name) {
            kept.roll_back(generation);
        }
        self.retry_those_without_routes(name);
        Ok(())
    }
}

/// Whether an order waits for the work on the plugin's file.
fn waits(action: Action) -> bool {
    matches!(action, Action::Reload | Action::Rollback)
}
