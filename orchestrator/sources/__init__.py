"""Data sources: fetched outside the sandbox, checked, packed into one tar. Imports `egress` and what is below it."""

from orchestrator.sources.delivery import Delivery, Link
from orchestrator.sources.fetcher import Fetcher, SourceSettings
from orchestrator.sources.profiles import S3Profile, SshProfile
from orchestrator.sources.skills import FoundSkill, SkillFolders

__all__ = ["Delivery", "Fetcher", "FoundSkill", "Link", "S3Profile", "SkillFolders", "SourceSettings", "SshProfile"]
