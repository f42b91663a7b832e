"""The icon sets that the bundled data is made of, and how each names its drawings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IconSet:
    """One npm package, ``@iconify-json/NAME``, at the version in package-lock.json."""

    name: str
    styles: str = ""  # words at the end of a name that say how an icon is drawn, not what it shows
    prefixes: str = ""  # the same at its beginning
    sized: bool = False  # whether names end in a size, such as -24, before the style


TRAINING_SETS = (
    IconSet("ant-design", "outlined filled twotone"),
    IconSet("basil", "outline solid"),
    IconSet("bi", "fill"),
    IconSet("bx", prefixes="bxs bx"),
    IconSet("carbon", "filled"),
    IconSet("cil"),
    IconSet("clarity", "line solid outline"),
    IconSet("codicon", "filled"),
    IconSet("eva", "fill outline"),
    IconSet("fa6-solid"),
    IconSet("fluent", "filled regular light", sized=True),
    IconSet("fluent-mdl2", "solid", sized=True),
    IconSet("game-icons"),
    IconSet("gravity-ui", "fill"),
    IconSet("heroicons", "solid", sized=True),
    IconSet("hugeicons"),
    IconSet("humbleicons"),
    IconSet("ic", prefixes="baseline outline round sharp twotone"),
    IconSet("icon-park-outline"),
    IconSet("iconamoon", "light bold fill thin duotone"),
    IconSet("ion", "outline sharp", prefixes="ios md"),
    IconSet("jam", "f"),
    IconSet("lets-icons", "light fill duotone line"),
    IconSet("lucide"),
    IconSet("majesticons", "line"),
    IconSet("maki", sized=True),
    IconSet("material-symbols", "rounded sharp outline"),
    IconSet("mdi", "outline"),
    IconSet("mingcute", "fill line"),
    IconSet("mynaui", "solid"),
    IconSet("octicon", "fill", sized=True),
    IconSet("pajamas", "solid"),
    IconSet("ph", "bold light thin duotone fill"),
    IconSet("proicons"),
    IconSet("ri", "fill line"),
    IconSet("solar", "duotone bold broken linear outline line"),
    IconSet("streamline", "remix solid"),
    IconSet("streamline-flex", "remix solid"),
    IconSet("streamline-ultimate", "bold"),
    IconSet("tabler", "filled"),
    IconSet("tdesign", "filled"),
    IconSet("temaki"),
    IconSet("uil"),
)
UNSEEN_SETS = (IconSet("healthicons", "outline negative"), IconSet("iconoir", "solid"))

# A word of a name that marks the picture as a trade mark's.
BRANDS = frozenset(
    """
    adobe airbnb alipay aliyun amazon android angular anthropic apple aws azure behance bilibili bitbucket bitcoin
    bluesky brand brands bxl chatgpt chrome claude codepen codesandbox copilot debian dhis2 dingtalk discord docker
    dribbble dropbox ethereum facebook fedora fhir figma firefox github gitea gitee gitlab google hl7v2 ibm instagram
    linkedin linux logo logos mastercard mastodon medium messenger microsoft netflix nodejs npm openai openid paypal
    pinterest playstation qq react redhat reddit safari skype slack snapchat spotify steam stripe taobao telegram tiktok
    trello tumblr twitch twitter uber ubuntu unity vimeo visa vuejs wechat weibo whatsapp windows wordpress xbox yahoo
    youtube yuque zalo zhihu
    """.split()  # noqa: SIM905
)
