"""JPEGs that neither Pillow nor OpenCV can write; each shows the disc of :func:`support.menagerie.animal.picture`.

Made with libjpeg-turbo (arithmetic coding) and imagecodecs (the others); zlib and base 85, to keep them short.
"""

from __future__ import annotations

import base64
import zlib

ARITHMETIC = zlib.decompress(
    base64.b85decode(
        "c-s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=VlZ%^+gO{6&n~#r|Usyp@SV%}%T}Dn^K~K}rKu=Rw$Jolt&e+V&Tu0X-"
        "+|kX)FDN+3$Sx`|Dj>ltFvuTd2qPaKpRk~?ny9Fnzp1XNKgr<#Nd`d<h5&{NW=16jCP7AKLB{`Q7`PY&1Xvjb1X=&zV&GwB1WGUqGT1Zxd;RFMM%"
        "bedPj1y8T%a4U_E!C(Xm5dkHzXIz)N-"
        "@jZQQ&!C2FepodZHYimuJsVf5$N+#~DU4jyc%RmwJZ5uUToV5`xVwnI^$1$E?W952p`;g7YB3}XDxptCGYSvN9%%UrozQ|k&B{hGV2uH^lOJj-"
        "RB#&P8)r)NmN+L19KOig@kZqt8;uUu1~{nq(z<e`)_;lbTnOU155;r2`S=O0i$$b9smn`A<)#5t|@v;3cIIg1Tm-EdV32vEH9bn1VGN&h%~W%fsN"
        "n%wyiDEx7Em&8-0m(!a~-yFVwTJ1l>o6Q@%?jKmY;?%u^4ewTeQe^YJEqDH}#nzYh+}V0f6>m}+TXXAs+AJSd&URQ^ekLceG-"
        "L7~slwe;Z(W{O_u}x~WJ6QoV^Nnbb((*$UXb)T@iEueKhrJB&bh8JnG_rEUtl4#e{Yt-+R77qAN~53867>ZdHv$IJiV{oSE`lV-"
        "TLLkoO26;_G_@tkGE}cpT%KZuzHe-Lf>5$5s4}PijU;}D49MpYC``}1K-"
        "r3E9Y0<KPj!CaLvWx)N6j#Rej3O9`k=(>6d8yZ%t3?nm0!dsIOI6Y5U{EO2)|vQ*-"
        "n=PIdU)_|LFYs3>Vh+ja({o(}CDu^sJ4m{|{2f9_b7d3i;9)0cwJO9I|}(%HoQ{Hi&pW|-A~hKvm>clISXGQ@1D>i-;8q457E0Nxfe>H"
    )
)
"""Arithmetic coding instead of Huffman codes (SOF9), 120 x 80."""

TWELVE_BIT = zlib.decompress(
    base64.b85decode(
        "c-mc5eKgYx82)X<v}*e;8Jdp`rRFxHU6Ibpn9zsnR!m0B82Lyw6)MVF$y{rdvD~85hg#-b+AZ>tWMibOw&b$TwJG^1Q#TB|>yO(#r|13idEfVW&"
        "--O~ZFmbHgQ-DO00IF3h|vH;A3y;tmmpAx#g-@}3cbwI+TH_ekHOe)a9iW-"
        "5wvkjNZ>|lKq&1{Oz7_9Jpoh(H!e9NGbcA^TXeyd3)z<soyf^DGz0KOKqzn&0s#TTQ((C<Gt}gp#&=jOTwo4|nHfnJBmgmm8u8r$3P4Ou7nqsDP)"
        "jYqg_g^(Xu}%-_KhV2r~Q9Kg!FdgcJ2M)$ssuB53i{C2Dw0A)_K=-M|aCks8z{aZ*fQujZD-N%5hGxK^qtTx~?9z1G!Kd{-"
        "{U%_UE$Z=<3;b9gR25FCKVL635yxa?>vRgbhOA#HnrA(MKLdc1Pdwd~VE}{B(SvF7G9&eoyV){S#BZX11cW#NztoXz`wcgq(`=uo$ywo;w6YTI~m"
        "|m`rBafZt#z{!&dn=Zd_9)A%Uy7&+==^gkGex2@G&`l4!mlETGiN^WgE4WC0=c+Dt2pc?|nm=xQgcAKs0Td2XQO#bL!78+IR8(}Se&{=ntpYUYW&"
        "Fd>)wv5=0emRq5N}-Ws70c3xQXDl)pxT1ceD93ivc!n4s)NIE)#%oe&CWA1s2Fq_-xF%#B!E@$Jx!pF*p*WPW7h(XY|lj$ez=MqrW43Df2Ui|Gqj"
        "b5fA6c=%apkI5m|+Hyt(k$b0a}?xPMQMiA)(MAz+^&B|+slSD)G96XeQ6@sUnryu5R=2u;K4TZ`Rhci*gbSHH^c!JHxac`xtXnMsJ#>d#QCBUf#n"
        "OOyOE0fL~_*f909I9<w~F#v6)O0StWW&LuWaRiB?c5{#hD}(EowvKW+8+AO2gCll@ULPONJkp&Ef>~<k1RoXt-~-ivVP~bMJ43&An2-"
        "HgYtigWmvI>gR}E1IMWr@AV6)@*4ZSexrOxLb2#cgN&L#G;MbF6Qr&`kQSDjobkcTgPm7vVW(}LnlcClfD01D^92EmLBW?Z)m2*$Fv=EH9%9gDoe"
        "QpA2bx`^amrO^rTSen@Og^Ap4GB~9f6AksJZhL}TGd`+#__Q2{!{NKK$QdfQ`oyIVrS!m<wgGKFU9>KR+S=wys+>l~Tp$D?DKOKFTy%~7wa@1;5{"
        "sg}7u))|+;X^%@bNxcyaC^tMz5%jH2@>^9a|*N^Le4`!^TpWeBZoboGSyduL-pS;l-"
        "8R3vpYa4V`7Z=Nj=iX+o|8JEH7F(+KQ@NUc)p$|~zP!gP5cg>l1lyeUONFC|V3H!=Lr<2>SRaQuWgDY@-"
        "=2RXd%qxh{WOV1(i)b<IQbXlyc54trYy`Mx{UQzKW#vt<U+JW`~fA^WLgps1-"
        "#!4#)nq5N%;9fuWx<Fa0Xdnxx`2|gPRuqV}VNTb!`bv7|IsUj3TfW~HElT{EP4mk;kK_dwuO{{lyiQjgo}OH<sMktPMlss6H_^lgUElA&16kVQCs"
        "-3OEOroPBYHtl#JA+jozLDV0>7<`0Z{5yeFc<=)+Cyg^{~!3z+D`UC%Qo6_BgR7$$v2>l!6TV@$AO8$3Kh+k+HIbug9bMNxr{TeU)S`nY<|LmX7="
        "ySJ+2qwR=wR-HAH%j3X-bi%`k`|C<CDdjAEzY)X&"
    )
)
"""12 bits per sample (SOF1), 120 x 80."""

LOSSLESS = zlib.decompress(
    base64.b85decode(
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuWft!ONfT4nsQIO&P5e6}!6i^r$aIpWs#lXP`R(|#X!$<_$0SuEGkOjgPFtAKP6JYRkKodYw0yKjG#T2jrrv^e"
        "mbOn%LR7D7IT>+6Q3*Z8*Ss)V0SjMOZG(Bq_(DZ~YK+^-Z23Zfp8YDeTTfr2<Z4hga^*~HT@-"
        "oC!2B82nQ<=QbOhpO<h+B~?)($|kcn}*xPMBZ>EYxCzshF_?iF4${g%QONJqT+s(+NZmk~Nr#4dOP81d1#GHWnk5qX>YMpa@{*onZ{*|K9`vmyJy"
        "z"
    )
)
"""Lossless mode of 1992 (SOF3), 8 bits, 120 x 80."""

JPEG_LS = zlib.decompress(
    base64.b85decode(
        "c-s4a<Npf=h2Q{BH#Y_*1_nk328IA2uHfQe1F{))Kp3ck11QG$|Hl9C4BQ+*1r>~pf(-v}F>o+~G=Svtrv9%-"
        "fyE&5XGiA$0tN<2uSd%!{9L0IG+iWQO^j#I{dTSVilk-iOT7|)xhxZ3a=0YZ$KGYikuMSJS~a_06wYM|mcEd@i>KUf%JI)X`RWzVKe7DNZa?AqCz"
        "*fF^G_7Rg&h05zDT@lmc8&;XfL1fqNA!+I^pgeUSDRUtoLktS<o3bn`P?D51et!9)&+zt6Gzqvi^9G*PosvtNz#j`+pMv=JRmp"
    )
)
"""JPEG-LS (SOF55), 120 x 80."""
