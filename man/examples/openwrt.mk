# Makefile of a package for OpenWrt's SDK: package/jtunnel/Makefile there. Written after OpenWrt's
# public documentation and not tried; the scripts of the SDK's packages feed build Rust.
#
# Its Rust has to be 1.88 or later: PKG_VERSION in feeds/packages/lang/rust/Makefile. By the public
# record of that feed the branch openwrt-23.05 went up to 1.84, openwrt-24.10 had 1.87 proposed in
# July 2025, and main, from which later releases are made, had 1.94 in March 2026. On an older branch
# take lang/rust of a newer one, or the static files of `make static`, which need no SDK.
#
#     ./scripts/feeds update packages && ./scripts/feeds install rust
#     make package/jtunnel/compile

include $(TOPDIR)/rules.mk

PKG_NAME:=jtunnel
PKG_VERSION:=0.1.0
PKG_RELEASE:=1
# The unpacked source.
PKG_SOURCE_URL:=/usr/src/jtunnel
PKG_SOURCE_PROTO:=git
PKG_SOURCE_VERSION:=HEAD
PKG_MIRROR_HASH:=skip
PKG_LICENSE:=ISC
PKG_LICENSE_FILES:=LICENSE
PKG_BUILD_DEPENDS:=rust/host
PKG_BUILD_PARALLEL:=1

include $(INCLUDE_DIR)/package.mk
include $(TOPDIR)/feeds/packages/lang/rust/rust-package.mk

define Package/jtunnel
  SECTION:=net
  CATEGORY:=Network
  SUBMENU:=VPN
  TITLE:=IP packets between two hosts, in UDP datagrams
  DEPENDS:=$(RUST_ARCH_DEPENDS) +kmod-tun
endef

define Package/jtunnel/conffiles
/etc/jtunnel/
/etc/init.d/jtunnel
endef

define Build/Compile
	$(call Build/Compile/Cargo,jtunneld)
	$(call Build/Compile/Cargo,jtunnel-client)
endef

define Package/jtunnel/install
	$(INSTALL_DIR) $(1)/usr/sbin $(1)/etc/init.d $(1)/usr/share/examples/jtunnel
	$(INSTALL_BIN) $(PKG_INSTALL_DIR)/bin/jtunneld $(1)/usr/sbin/
	$(INSTALL_BIN) $(PKG_INSTALL_DIR)/bin/jtunnel-client $(1)/usr/sbin/
	$(INSTALL_BIN) $(PKG_BUILD_DIR)/man/examples/jtunnel.init $(1)/etc/init.d/jtunnel
	$(CP) $(PKG_BUILD_DIR)/man/examples/* $(1)/usr/share/examples/jtunnel/
endef

$(eval $(call BuildPackage,jtunnel))
