//! Approvals: where a grant asks for them, distinct live users other than the requester must have approved exactly this.
//!
//! The hash that they approved is computed anew from the certificate and this host's own id, so a certificate for another host,
//! login, key or time than was approved does not count, however wide its scope is. One denial is enough against any number.

use countersign_certificate::{ApprovalTerms, Certificate, Id, Scope, approval_hash};
use countersign_snapshot::{Grant, UserState, Verdict};

use super::{Judge, Moment, Refusal};
use crate::reason::Reason;
use crate::step::Step;

impl Judge<'_> {
    pub(super) fn check_approvals(
        &mut self,
        certificate: &Certificate<'_>,
        scope: &Scope,
        grant: &Grant,
    ) -> Result<(), Refusal> {
        let needed = usize::from(grant.approvals);
        if needed == 0 {
            return Ok(());
        }
        let request = self.snapshot.request(scope.request)?.ok_or(Reason::RequestUnknown)?;
        if request.user != scope.user {
            return Err(Reason::ScopeUser.into());
        }
        let facts = self.snapshot.facts();
        let Some(ttl_secs) = certificate.ttl_secs() else {
            return Err(Refusal::new(
                Reason::RequestMismatch,
                "the certificate's life is shorter than its setting back",
            ));
        };
        let terms = ApprovalTerms {
            request: scope.request,
            user: scope.user,
            host: facts.host,
            login: self.query.login().as_bytes(),
            key: &certificate.public_key,
            ttl_secs,
        };
        let hash = approval_hash(&scope.realm, &terms).map_err(|error| Refusal::new(Reason::LoginUnsafe, error))?;
        if request.approval_hash != hash {
            return Err(Reason::RequestMismatch.into());
        }
        (self.observe)(Step::Request(scope.request, &request));

        let mut approvers: Vec<Id> = Vec::new();
        let mut late = false;
        for ordinal in 0..=u8::MAX {
            let Some(approval) = self.snapshot.approval(scope.request, ordinal)? else { break };
            if approval.verdict == Verdict::Deny {
                return Err(Reason::ApprovalDenied.into());
            }
            let Some(approver) = approval.approver else { continue };
            if approval.approval_hash != hash || approver == scope.user || approvers.contains(&approver) {
                continue;
            }
            if !self.snapshot.user(approver)?.is_some_and(|user| user.state == UserState::Active) {
                continue;
            }
            let latest_end = approval.time_secs.saturating_add(ttl_secs).saturating_add(facts.pickup_secs);
            if certificate.valid_before > latest_end && self.moment == Moment::Login {
                late = true;
                continue;
            }
            (self.observe)(Step::Approval(scope.request, ordinal, &approval));
            approvers.push(approver);
        }
        if approvers.len() >= needed {
            return Ok(());
        }
        let detail = format_args!("{} of {needed}", approvers.len()).to_string();
        Err(Refusal::new(if late { Reason::PickupLate } else { Reason::ApprovalsMissing }, detail))
    }
}
