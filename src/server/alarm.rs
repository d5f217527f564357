//! Alarms: what is wrong with which member. Part of the replicated state, so that every member refuses the same commands.

use std::collections::BTreeSet;

use crate::pb::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, alarm_request::AlarmAction};

/// The active alarms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    active: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// The alarms of a checkpoint.
    pub fn of(stored: impl IntoIterator<Item = AlarmMember>) -> Alarms {
        Alarms { active: stored.into_iter().map(|a| (a.alarm, a.member_id)).collect() }
    }

    /// All active alarms.
    pub fn list(&self) -> Vec<AlarmMember> {
        self.active.iter().map(|(alarm, member_id)| AlarmMember { alarm: *alarm, member_id: *member_id }).collect()
    }

    /// Whether any member has this alarm.
    pub fn is_active(&self, alarm: AlarmType) -> bool {
        self.active.iter().any(|(active, _)| *active == alarm as i32)
    }

    /// Carries a request out, and returns the alarms it speaks of.
    pub fn apply(&mut self, request: &AlarmRequest) -> Vec<AlarmMember> {
        let named = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) if request.alarm == AlarmType::None as i32 => self.list(),
            Ok(AlarmAction::Get) => self.list().into_iter().filter(|a| a.alarm == request.alarm).collect(),
            Ok(AlarmAction::Activate) if request.alarm == AlarmType::None as i32 => Vec::new(),
            Ok(AlarmAction::Activate) => {
                self.active.insert((request.alarm, request.member_id));
                vec![named]
            }
            Ok(AlarmAction::Deactivate) if self.active.remove(&(request.alarm, request.member_id)) => vec![named],
            Ok(AlarmAction::Deactivate) | Err(_) => Vec::new(),
        }
    }

    /// An alarm as `StatusResponse.errors` tells it: in protobuf's text form, which leaves out a member of id 0.
    pub fn describe(alarm: &AlarmMember) -> String {
        let name = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
        match alarm.member_id {
            0 => format!("alarm:{name}"),
            id => format!("memberID:{id} alarm:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(action: AlarmAction, member_id: u64, alarm: AlarmType) -> AlarmRequest {
        AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 }
    }

    #[test]
    fn an_alarm_lasts_until_it_is_cleared() {
        let mut alarms = Alarms::default();
        assert_eq!(alarms.apply(&request(AlarmAction::Activate, 7, AlarmType::None)), []);
        assert_eq!(alarms.apply(&request(AlarmAction::Activate, 7, AlarmType::Nospace)).len(), 1);
        assert!(alarms.is_active(AlarmType::Nospace) && !alarms.is_active(AlarmType::Corrupt));
        assert_eq!(alarms.apply(&request(AlarmAction::Get, 0, AlarmType::None)).len(), 1);
        assert_eq!(alarms.apply(&request(AlarmAction::Get, 0, AlarmType::Corrupt)), []);
        assert_eq!(Alarms::of(alarms.list()), alarms);
        assert_eq!(Alarms::describe(&alarms.list()[0]), "memberID:7 alarm:NOSPACE");
        assert_eq!(Alarms::describe(&AlarmMember { member_id: 0, ..alarms.list()[0] }), "alarm:NOSPACE");
        assert_eq!(alarms.apply(&request(AlarmAction::Deactivate, 8, AlarmType::Nospace)), []);
        assert_eq!(alarms.apply(&request(AlarmAction::Deactivate, 7, AlarmType::Nospace)).len(), 1);
        assert_eq!(alarms.list(), []);
    }
}
